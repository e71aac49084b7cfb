"""`tokencake compare`: simulator against engine, or run against run."""

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from rich.console import Console

from tokencake.experiments.agreement import STEP_TIME, Row, compare, load_averages
from tokencake.experiments.arguments import Parser
from tokencake.experiments.errors import UsageError
from tokencake.experiments.metrics import beyond
from tokencake.experiments.pairing import Pair, pair_up
from tokencake.experiments.plots.agreement import agreement
from tokencake.experiments.plots.style import paper_style, save
from tokencake.experiments.printing import print_table
from tokencake.experiments.ranking import Ranking, rankings
from tokencake.experiments.renewing import renewing
from tokencake.experiments.results import Run, complete, find_runs
from tokencake.experiments.sweep import missing
from tokencake.experiments.words import counted

_FORMATS = ("png", "pdf", "svg")
_TABLES = ("compare.csv", "compare.md")
_FIGURE = "predicted_measured"
# Heading and metric of the Markdown table; the CSV file has more.
_SHOWN = (
    ("mean", "program_latency_mean_s"),
    ("p50", "program_latency_p50_s"),
    ("p95", "program_latency_p95_s"),
    ("p99", "program_latency_p99_s"),
    ("makespan", "makespan_s"),
    ("TTFT", "ttft_mean_s"),
    ("queue", "queue_mean_s"),
    ("computed", "computed_tokens"),
    ("hits", "hit_tokens"),
    ("preempt.", "preemptions"),
    ("to CPU", "d2h_bytes"),
    ("to GPU", "h2d_bytes"),
)
_LEFT_OUT = ("p50", "p99")  # of the terminal, which is narrower
_NOTED = ("program_latency_mean_s", "makespan_s", "computed_tokens", "hit_tokens")
_SPREADS = ("program_latency_mean_s", "makespan_s")
_MANY = 4  # settings whose rankings are told one by one


def run(words: Sequence[str]) -> None:
    """Compare, write `compare.csv`, `compare.md` and a figure, print the table.

    Raises:
        UsageError: nothing can be compared, or the output cannot be written or is there already.
    """
    chosen = _parser().parse_args(words)
    if len(chosen.directories) < 2:
        raise UsageError("two or more run or sweep directories are needed (try: tokencake compare --help)")
    found = [find_runs([path]) for path in chosen.directories]
    pairs = pair_up(found, chosen.measured)
    left_out = (note for runs in found for note in complete(runs, idle=False)[1])
    for note in dict.fromkeys((*missing(chosen.directories), *left_out)):
        print(f"tokencake compare: {note}", file=sys.stderr)
    rows = compare(pairs)
    ranks = rankings(pairs)
    head, body = _cells(pairs, rows, _SHOWN)
    notes = _notes(pairs, rows, chosen.directories[0])
    ranked = [_ranked(rank) for rank in ranks]
    formats = tuple(dict.fromkeys(chosen.format or ("png", "pdf")))
    ours = [*_TABLES, *(f"{_FIGURE}.{kind}" for kind in formats)]
    out = chosen.out or chosen.directories[0] / "compare"
    with renewing(out, ours, replace=chosen.overwrite or chosen.out is None) as folder:
        pd.DataFrame(map(asdict, rows)).to_csv(folder / _TABLES[0], index=False, lineterminator="\n")
        (folder / _TABLES[1]).write_text(_markdown(head, body, [*notes, *ranked]), encoding="utf-8")
        with paper_style():
            save(agreement(pairs), folder / _FIGURE, formats)
    if len(ranks) > _MANY:
        ranked = [_ranked_in_all(ranks, out / _TABLES[1])]
    _show(*_cells(pairs, rows, [column for column in _SHOWN if column[0] not in _LEFT_OUT]), [*notes, *ranked])
    for name in ours:
        print(f"  {out / name}")


def _parser() -> Parser:
    parser = Parser(
        prog="tokencake compare",
        description="Says how far predicted runs are from measured ones of the same trace, policy and settings.",
        epilog="Where runs of host=live are among them, they are what the others are measured by; repeats of one"
        " run (live.repeat=0,1,2) give the spread. Runs of one host: the first directory is the reference. Runs are set"
        " against each other where trace, seed, policy and all other settings are equal; what may differ is host, the"
        " version that made them, hardware.*, link.*, live.*, engine.jumps, engine.runs, and what is logged; but live"
        " runs of one side are repeats of each other, and differ in no other live.* than live.repeat. Runs that differ"
        " otherwise stand side by side in tokencake plot.",
    )
    parser.add_argument("directories", nargs="*", type=Path, metavar="RUN_OR_SWEEP_DIR")
    parser.add_argument("--measured", metavar="HOST", help="host whose runs are the reference: live, virtual or sim")
    parser.add_argument("--out", type=Path, help="where to write (default: compare/ in the first directory)")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in the directory given by --out")
    parser.add_argument("--format", action="append", choices=_FORMATS, help="may be repeated; default: png and pdf")
    return parser


def _cells(
    pairs: Sequence[Pair], rows: Sequence[Row], shown: Sequence[tuple[str, str]]
) -> tuple[list[str], list[list[str]]]:
    """Headings and cells: signed errors in percent, then the spread of the repeats."""
    settings = len({pair.setting for pair in pairs}) > 1
    repeated = any(row.repeats > 1 for row in rows)
    if any(row.metric == STEP_TIME for row in rows):
        shown = [*shown, ("steps", STEP_TIME)]
    head = [*(["setting"] if settings else []), "policy", "runs", "latency s", *(title for title, _ in shown)]
    if repeated:
        head += ["spread mean", "makespan"]
    found = {(row.setting, row.policy, row.metric): row for row in rows}
    body = []
    for pair in sorted(pairs, key=lambda pair: pair.setting):
        cells = [*([pair.setting] if settings else []), pair.policy, str(len(pair.measured))]
        cells.append(f"{found[pair.setting, pair.policy, _SPREADS[0]].measured:.2f}")
        cells += [_error(found.get((pair.setting, pair.policy, metric))) for _, metric in shown]
        if repeated:
            cells += [_percent(found[pair.setting, pair.policy, metric].spread, sign=False) for metric in _SPREADS]
        body.append(cells)
    return head, body


def _error(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{row.predicted:g} for 0" if math.isnan(row.error) else _percent(row.error)


def _percent(value: float, *, sign: bool = True) -> str:
    return "" if math.isnan(value) else f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}"


def _notes(pairs: Sequence[Pair], rows: Sequence[Row], first: Path) -> list[str]:
    """What stands under the table; `first` is the reference where all runs are of one host."""
    predicted = _hosts(run for pair in pairs for run in pair.predicted)
    measured = _hosts(run for pair in pairs for run in pair.measured)
    what, sides, base = "error", f"predicted ({predicted}) over measured ({measured})", "measured"
    if predicted == measured:
        what, sides, base = "difference", f"the other runs over those in {first} (all {measured})", f"that in {first}"
    notes = [
        f"Signed {what}s in percent: {sides}, less one. mean and p95 are of program latency; TTFT and queue are means"
        f" over calls; computed, hits: tokens; latency s is {base}.",
    ]
    if any(row.metric == STEP_TIME for row in rows):
        notes.append(
            "steps: time of the measured steps themselves as the profile has it, over measured: how far the machine was"
            " not as calibrated, or the latency model is off; what else differs is due to the schedule."
        )
    if any(len(pair.measured) > 1 for pair in pairs):
        notes.append("Spread: range of the repeated measurements over their mean, in percent.")
        notes.append(_beyond_scatter(rows))
    for metric in _NOTED:
        errors = [row.error for row in rows if row.metric == metric and not math.isnan(row.error)]
        if errors:
            mean = sum(map(abs, errors)) / len(errors)
            notes.append(f"{metric}: mean absolute {what} {mean:.1%}, worst {max(errors, key=abs):+.1%}.")
    notes += _refused(pairs)
    loads = load_averages(pairs)
    if loads is not None and measured == "live":  # what else ran changes nothing in simulated time
        notes.append(f"Load average of the machine during the measured runs: {loads[0]:.1f} to {loads[1]:.1f}.")
    return notes


def _beyond_scatter(rows: Sequence[Row]) -> str:
    """Which of the errors that are noted cannot be put down to how the runs scatter."""
    judged = [row for row in rows if row.metric in _NOTED and not math.isnan(row.margin)]
    found = [
        f"{row.setting} {row.policy} {row.metric} {row.error:+.1%}".strip()
        for row in judged
        if beyond(row.error, row.margin)
    ]
    how = {row.paired for row in judged}
    sides = "paired by repeat" if True in how else "taken as independent"
    where = " where they have the same ones" if len(how) > 1 else ""
    return (
        f"Errors beyond their 95 % intervals (Student's t over the repeats, sides {sides}{where}; chance alone puts one"
        f" in twenty there), of {len(judged)}: {', '.join(found) or 'none'}."
    )


def _hosts(runs: Iterable[Run]) -> str:
    return ", ".join(dict.fromkeys(str(run.summary["host"]) for run in runs))


def _refused(pairs: Sequence[Pair]) -> list[str]:
    """Whose latencies are of some of the programs, and perhaps not of the same ones on both sides."""
    told: dict[str, list[str]] = {}
    for pair in pairs:
        predicted, measured = ({run.refused for run in side} for side in (pair.predicted, pair.measured))
        most = max(map(len, predicted | measured))
        if most:
            which = "the same" if predicted == measured else "not the same"
            text = f"up to {counted(most, 'program')} a run, {which} on both sides"
            told.setdefault(text, []).append(f"{pair.setting} {pair.policy}".strip())
    return [f"Refused, and in no latency: {what} ({', '.join(whose)})." for what, whose in told.items()]


def _ranked(rank: Ranking) -> str:
    where = f"{rank.setting}: " if rank.setting else ""
    text = f"{where}order of {rank.policies} policies by {rank.metric}: Kendall's tau {rank.tau:.2f}"
    if not math.isnan(rank.low):
        drawn = "repeats and their predictions" if rank.together else "measured repeats with predictions held fixed"
        text += f" (95 % bootstrap interval {rank.low:.2f} to {rank.high:.2f}, over {rank.repeats} {drawn})"
    if rank.set_aside and not math.isnan(rank.clear_tau):
        clear = rank.pairs - rank.set_aside
        text += f"; {rank.clear_tau:.2f} over the {clear} of {rank.pairs} pairs that differ by more than the spread"
    elif rank.set_aside:
        text += f"; none of the {rank.pairs} pairs differs by more than the spread"
    return f"{text}{_told_apart(rank)}."


def _told_apart(rank: Ranking) -> str:
    """What is said of the pairs of policies that took turns, and differ within the turns."""
    test = "repeat by repeat (the 95 % t interval of their relative difference excludes 0)"
    if not rank.tested:
        return ""
    if not rank.told_apart:
        return f"; none of the {rank.pairs} pairs is told apart {test}"
    return f"; {rank.told_apart_tau:.2f} over the {rank.told_apart} of {rank.pairs} pairs that are told apart {test}"


def _ranked_in_all(ranks: Sequence[Ranking], where: Path) -> str:
    """Many rankings in one line."""
    worst = min(ranks, key=lambda rank: rank.tau)
    mean = sum(rank.tau for rank in ranks) / len(ranks)
    text = f"mean {mean:.2f}, lowest {worst.tau:.2f} ({worst.setting})"
    if worst.tau == max(rank.tau for rank in ranks):
        text = f"{worst.tau:.2f} in each"
    return f"order of policies by {worst.metric} in {len(ranks)} settings: Kendall's tau {text}; one by one in {where}."


def _markdown(head: list[str], body: list[list[str]], notes: list[str]) -> str:
    first = head.index("runs")
    rule = ["---"] * first + ["---:"] * (len(head) - first)
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, rule, *body]]
    return "\n".join([*lines, "", *(f"* {note}" for note in notes), ""])


def _show(head: list[str], body: list[list[str]], notes: list[str]) -> None:
    print_table(head, body, numbers_from=head.index("runs"))
    console = Console()
    for note in notes:
        console.print(note, highlight=False, soft_wrap=not console.is_terminal)
