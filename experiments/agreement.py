"""Predicted against measured: how far the numbers of paired runs are from each other, and how well that is known."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from tokencake.experiments.metrics import relative_change, t95
from tokencake.experiments.pairing import METRICS, Pair
from tokencake.experiments.results import Run

STEP_TIME = "step_time_s"
"""Besides: time of the very steps that were measured, as the hardware profile has it over as it was measured."""


@dataclass(frozen=True)
class Row:
    """One metric of one pair.

    Attributes:
        setting: the pair's.
        policy: the pair's.
        metric: name, in `METRICS`, or `STEP_TIME`.
        measured: mean over the measured runs; over repeats (`Pair.samples`), if they have several runs each.
        predicted: mean over the predicted runs, likewise.
        error: `predicted / measured - 1`; NaN where 0 was measured and something else predicted.
        standard_error: of `error`, from how both sides together scatter over the repeats, where they are paired, and
            else from how each scatters (a single prediction counts as exact); NaN without repeated measurements, or
            where the mean is 0.
        margin: half the width of the 95 % interval of `error`: `standard_error` times the two-sided 95 % point of
            Student's t at the degrees of freedom that the repeats leave (n - 1 where n of them are paired, or only the
            n measurements scatter).
        paired: whether that interval is of what differs within repeats.
        spread: range of the repeated measurements over their mean; NaN without repeats, or where the mean is 0.
        repeats: measured runs.
    """

    setting: str
    policy: str
    metric: str
    measured: float
    predicted: float
    error: float
    standard_error: float
    margin: float
    paired: bool
    spread: float
    repeats: int


def compare(pairs: Sequence[Pair]) -> list[Row]:
    """Every metric of every pair, and the time of its steps where that was measured."""
    rows = []
    for pair in pairs:
        rows += [_row(pair, name, pair.samples(name), pair.values(name)[1], paired=pair.paired) for name in METRICS]
        times = _step_times(pair.measured)
        if times:  # both of the same steps
            rows.append(_row(pair, STEP_TIME, times, times[1], paired=len(times[1]) > 1))
    return rows


def _step_times(measured: Sequence[Run]) -> tuple[list[float], list[float]] | None:
    """Time of each run's steps in all, as its hardware profile has it and as it was measured; None if it was not."""
    tables = [run.table("steps") for run in measured if (run.path / "steps.parquet").exists()]
    if not tables or any("expected_s" not in table for table in tables):
        return None
    return [float(table["expected_s"].sum()) for table in tables], [float(t["duration_s"].sum()) for t in tables]


def _row(
    pair: Pair, metric: str, sides: tuple[Sequence[float], Sequence[float]], runs: Sequence[float], *, paired: bool
) -> Row:
    """A row, from samples of the predicted and of the measured, and from what each measured run had."""
    predicted, measured = sides
    mean, forecast = fmean(measured), fmean(predicted)
    error = forecast / mean - 1 if mean else (0.0 if forecast == 0 else math.nan)
    scatter = margin = spread = math.nan
    if mean and len(measured) > 1:
        scatter, margin = (_paired_scatter if paired else _scatter)(predicted, measured)
        spread = (max(runs) - min(runs)) / mean
    return Row(pair.setting, pair.policy, metric, mean, forecast, error, scatter, margin, paired, spread, len(runs))


def _paired_scatter(predicted: Sequence[float], measured: Sequence[float]) -> tuple[float, float]:
    """Standard error of the ratio of the two means, and half the width of its 95 % interval, repeat by repeat.

    What the runs of a repeat share, such as how fast the machine was, is no error of their ratio.
    """
    change = relative_change(dict(enumerate(predicted)), dict(enumerate(measured)))
    assert change is not None
    return change.half / t95(change.count - 1), change.half


def _scatter(predicted: Sequence[float], measured: Sequence[float]) -> tuple[float, float]:
    """The same, of sides that have nothing in common.

    To first order the variance of the ratio r is that of (predicted - r * measured) / mean measured. The sides are
    independent and scatter differently, so their degrees of freedom are pooled as by Welch and Satterthwaite.
    """
    mean = fmean(measured)
    ratio = fmean(predicted) / mean
    sides = (standard_error(predicted) / mean, len(predicted)), (standard_error(measured) * ratio / mean, len(measured))
    scatter = math.hypot(*(error for error, _ in sides))
    if scatter == 0:
        return 0.0, 0.0
    degrees = 1 / sum((error / scatter) ** 4 / (count - 1) for error, count in sides if count > 1)
    return scatter, t95(int(round(degrees, 6))) * scatter


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean of independent runs, in their unit; 0 for a single run, of which nothing is known."""
    return math.sqrt(variance(values) / len(values)) if len(values) > 1 else 0.0


def load_averages(pairs: Sequence[Pair]) -> tuple[float, float] | None:
    """Lowest and highest load average of the machine during the measured runs, as they recorded it."""
    found = [float(load) for pair in pairs for run in pair.measured for load in run.timing.get("load_average", ())]
    return (min(found), max(found)) if found else None
