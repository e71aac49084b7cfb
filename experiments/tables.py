"""The comparison table: policy by load, on the terminal, as CSV and as Markdown."""

import math
from pathlib import Path
from typing import Any

import pandas as pd

from tokencake.experiments.comparison import Comparison, aggregate, all_equal, count_range, paired, unlike
from tokencake.experiments.keys import shortened, title
from tokencake.experiments.printing import print_table
from tokencake.experiments.words import counted

FILES = ("table.csv", "table.md", "paired.csv")
"""What `save` writes by default; the last one only where there are two policies."""

# Heading, metric, number format.
_SHOWN = (
    ("mean latency (s)", "latency_mean_s", "{:.1f}"),
    ("p95 latency (s)", "latency_p95_s", "{:.1f}"),
    ("makespan (s)", "makespan_s", "{:.1f}"),
    ("hits (%)", "hit_share", "{:.1%}"),
    ("preemptions", "preemptions", "{:.1f}"),
    ("to CPU (GB)", "d2h_gb", "{:.1f}"),
    ("to GPU (GB)", "h2d_gb", "{:.1f}"),
)


def _cell(row: Any, metric: str, form: str) -> str:
    mean, low, high = (row[metric], row[f"{metric}_low"], row[f"{metric}_high"])
    if math.isnan(mean):
        return ""
    text = form.format(mean)
    if not math.isnan(low) and high > low:
        text += " ±" + form.format((high - low) / 2)
    return text.replace("%", "")


def _sorted(comparison: Comparison) -> pd.DataFrame:
    """Rows by settings (numbers by size, others as they came), then by policy."""
    table = aggregate(comparison)
    places = {"policy": comparison.policies} | {
        key: table[key].unique() for key in comparison.keys if not pd.api.types.is_numeric_dtype(table[key])
    }
    for key, values in places.items():
        table[f"_{key}"] = table[key].map({value: place for place, value in enumerate(values)})
    order = [f"_{key}" if key in places else key for key in (*comparison.keys, "policy")]
    table = table.sort_values(order, kind="stable")
    return table.drop(columns=[*(f"_{key}" for key in places), "series"]).reset_index(drop=True)


def rows(comparison: Comparison) -> tuple[list[str], list[list[str]], int]:
    """Headings, cells and the index of the first number of the readable table; ± is half a 95 % interval over seeds."""
    table = _sorted(comparison)
    names = [_settings(table[key]) for key in comparison.keys]
    names.append(list(table["policy"]))
    head = [*map(title, comparison.keys), "policy"]
    if table["seeds"].nunique() > 1:
        head.append("seeds")
        names.append([str(seeds) for seeds in table["seeds"]])
    if comparison.frame["refused_programs"].any():
        head.append("finished")
        names.append([which or "all" for which in table["finished"]])
    versus = _versus(comparison)
    body = []
    for (_, row), *own in zip(table.iterrows(), *names, strict=True):
        numbers = [_cell(row, metric, form) for _, metric, form in _SHOWN]
        if versus:
            change, seeds = versus.get(_place(row, comparison), ("", row["seeds"]))
            numbers.insert(1, change if seeds == row["seeds"] else f"{change} ({counted(seeds, 'seed')})")
        body.append([*own, *numbers])
    titles = [heading for heading, _, _ in _SHOWN]
    if versus:
        titles.insert(1, f"vs {comparison.policies[0]} (%)")
    return head + titles, body, len(head)


def _place(row: pd.Series, comparison: Comparison) -> tuple[Any, ...]:
    """Policy and settings of a row; None where it has no such setting, since no NaN equals another."""
    return (row["policy"], *(None if pd.isna(row[key]) else row[key] for key in comparison.keys))


def _settings(values: pd.Series) -> list[str]:
    """What each row has of a setting, short; nothing where it has none."""
    known = shortened(dict(enumerate(values.dropna())))
    texts = iter(known.values())
    return ["" if missing else next(texts) for missing in values.isna()]


def _versus(comparison: Comparison) -> dict[tuple[Any, ...], tuple[str, int]]:
    """Change of the mean latency against the first policy, and on how many seeds; empty with one policy."""
    cells = {}
    for _, row in paired(comparison, ("latency_mean_s",)).iterrows():
        if math.isnan(row["relative"]):  # the baseline's mean is 0
            continue
        half = 100 * (row["relative_high"] - row["relative_low"]) / 2
        text = f"{100 * row['relative']:+.1f}" + ("" if math.isnan(half) else f" ±{half:.1f}")
        cells[_place(row, comparison)] = text, int(row["seeds"])
    return cells


def caption(comparison: Comparison) -> str:
    """What the numbers are means of."""
    seeds = aggregate(comparison)["seeds"]
    count = str(seeds.min()) if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
    what = "One seed each: no intervals."
    if seeds.max() > 1:
        what = f"Mean ± half of the 95 % t interval over {count} seeds."
    if _versus(comparison):
        what += f" vs {comparison.policies[0]}: change of the mean latency on the same seeds; negative is faster."
    return " ".join([what, *_same(comparison), _refused(comparison)])


def _same(comparison: Comparison) -> list[str]:
    """Which policies did not care for the seed, so that their runs are one."""
    groups = comparison.frame.groupby(["policy", *comparison.keys], dropna=False, sort=False)
    same = dict.fromkeys(str(group["policy"].iloc[0]) for _, group in groups if all_equal(comparison, group))
    return [f"Runs of {', '.join(same)} are equal whatever the seed: they count as one."] if same else []


def _refused(comparison: Comparison) -> str:
    """Which calls could not run, and are in no number."""
    if not comparison.frame["refused_calls"].any():
        return "No call was refused."
    calls, programs = (count_range(comparison.frame[name]) for name in ("refused_calls", "refused_programs"))
    text = f"Refused in each run: {calls} calls, {programs} programs; latencies are of those that finished."
    if unlike(comparison):
        text += f" Where other programs finished than under {comparison.policies[0]}, the two are not compared."
    return text


def markdown(comparison: Comparison) -> str:
    """The table as Markdown."""
    head, body, numbers = rows(comparison)
    rule = ["---"] * numbers + ["---:"] * (len(head) - numbers)
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, rule, *body]]
    return "\n".join([*lines, "", caption(comparison), ""])


def show(comparison: Comparison) -> None:
    """Print the table, with a gap between loads."""
    head, body, numbers = rows(comparison)
    gaps: list[int] = []
    if comparison.load and len(comparison.series) > 1:
        load = comparison.keys.index(comparison.load)
        gaps = [i for i in range(len(body) - 1) if body[i][load] != body[i + 1][load]]
    print_table(head, body, numbers_from=numbers, caption=caption(comparison), sections=gaps)


def save(comparison: Comparison, directory: Path, name: str = "table") -> list[Path]:
    """Write `<name>.csv` (every metric with its interval), `<name>.md`, and `paired.csv` if there are two policies."""
    written = [directory / f"{name}.csv", directory / f"{name}.md"]
    _sorted(comparison).drop(columns="finished").to_csv(written[0], index=False, lineterminator="\n")
    written[1].write_text(markdown(comparison), encoding="utf-8")
    differences = paired(comparison)
    if len(differences):
        written.append(directory / "paired.csv")
        differences.to_csv(written[2], index=False, lineterminator="\n")
    return written
