"""The comparison table: policy by load, on the terminal, as CSV and as Markdown."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from tokencake.experiments.comparison import Comparison, aggregate, paired

# Heading, metric, number format.
_SHOWN = (
    ("mean latency s", "latency_mean_s", "{:.1f}"),
    ("p95 latency s", "latency_p95_s", "{:.1f}"),
    ("makespan s", "makespan_s", "{:.1f}"),
    ("hits %", "hit_share", "{:.1%}"),
    ("preemptions", "preemptions", "{:.1f}"),
    ("to CPU GB", "d2h_gb", "{:.1f}"),
    ("to GPU GB", "h2d_gb", "{:.1f}"),
)


_WIDTH = 140


def _cell(row: Any, metric: str, form: str) -> str:
    mean, low, high = (row[metric], row[f"{metric}_low"], row[f"{metric}_high"])
    text = form.format(mean)
    if not math.isnan(low) and high > low:
        text += " ±" + form.format((high - low) / 2)
    return text.replace("%", "")


def _sorted(comparison: Comparison) -> pd.DataFrame:
    table = aggregate(comparison)
    order = {policy: i for i, policy in enumerate(comparison.policies)}
    table["_order"] = table["policy"].map(order)
    keys = [key for key in comparison.keys if pd.api.types.is_numeric_dtype(table[key])]
    return table.sort_values([*keys, "_order"], kind="stable").drop(columns=["_order", "series"]).reset_index(drop=True)


def rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the readable table; ± is half a 95 % interval over seeds."""
    table = _sorted(comparison)
    constant_seeds = table["seeds"].nunique() == 1
    versus = _versus(comparison)
    head = [*(key.rsplit(".", 1)[-1] for key in comparison.keys), "policy", *([] if constant_seeds else ["seeds"])]
    body = []
    for _, row in table.iterrows():
        cells = [*(str(row[key]) for key in comparison.keys), row["policy"]]
        cells += [] if constant_seeds else [str(row["seeds"])]
        numbers = [_cell(row, metric, form) for _, metric, form in _SHOWN]
        if versus:
            numbers.insert(1, versus.get((row["policy"], *(row[key] for key in comparison.keys)), ""))
        body.append(cells + numbers)
    titles = [title for title, _, _ in _SHOWN]
    if versus:
        titles.insert(1, f"vs {comparison.policies[0]} %")
    return head + titles, body


def _versus(comparison: Comparison) -> dict[tuple[Any, ...], str]:
    """Change of the mean latency against the first policy, seed by seed; empty with one policy or one seed."""
    if len(comparison.policies) < 2 or comparison.frame["seed"].nunique() < 2:
        return {}
    cells = {}
    for _, row in paired(comparison, ("latency_mean_s",)).iterrows():
        scale = 100 * row["relative"] / row["difference"] if row["difference"] else 0.0
        half = abs(scale) * (row["high"] - row["low"]) / 2
        key = (row["policy"], *(row[key] for key in comparison.keys))
        cells[key] = f"{100 * row['relative']:+.1f} ±{half:.1f}"
    return cells


def caption(comparison: Comparison) -> str:
    """What the numbers are means of."""
    seeds = comparison.frame.groupby(["policy", *comparison.keys], dropna=False).size()
    count = str(seeds.min()) if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
    what = "One seed each: no intervals."
    if seeds.max() > 1:
        what = f"Mean ± half of the 95 % t interval over {count} seeds."
    return f"{what} {_refused(comparison)}"


def _refused(comparison: Comparison) -> str:
    """Which calls could not run, and are in no number."""
    pairs = sorted({(run.summary["refused_calls"], run.summary["refused_programs"]) for run in comparison.runs})
    if not any(calls for calls, _ in pairs):
        return "No call was refused."
    return "Refused: " + ", or ".join(f"{calls} calls in {programs} programs" for calls, programs in pairs) + " a run."


def markdown(comparison: Comparison) -> str:
    """The table as Markdown."""
    head, body = rows(comparison)
    numeric = len(head) - head.index(_SHOWN[0][0])
    rule = ["---"] * (len(head) - numeric) + ["---:"] * numeric
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, rule, *body]]
    return "\n".join([*lines, "", caption(comparison), ""])


def show(comparison: Comparison) -> None:
    """Print the table; where there is no terminal, at a width that breaks no line."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    head, body = rows(comparison)
    table = Table(caption=caption(comparison), caption_justify="left")
    first_number = head.index(_SHOWN[0][0])
    for i, title in enumerate(head):
        table.add_column(title, justify="right" if i >= first_number else "left", no_wrap=title == "policy")
    load_column = head.index(comparison.load.rsplit(".", 1)[-1]) if comparison.load else None
    for i, cells in enumerate(body):
        last = (
            len(comparison.policies) > 1
            and load_column is not None
            and i + 1 < len(body)
            and body[i + 1][load_column] != cells[load_column]
        )
        table.add_row(*cells, end_section=last)
    console.print(table)


def save(comparison: Comparison, directory: Path, name: str = "table") -> list[Path]:
    """Write `<name>.csv` (every metric with its interval), `<name>.md`, and `paired.csv` if there are two policies."""
    written = [directory / f"{name}.csv", directory / f"{name}.md"]
    _sorted(comparison).to_csv(written[0], index=False, lineterminator="\n")
    written[1].write_text(markdown(comparison), encoding="utf-8")
    differences = paired(comparison)
    if len(differences):
        written.append(directory / "paired.csv")
        differences.to_csv(written[2], index=False, lineterminator="\n")
    return written
