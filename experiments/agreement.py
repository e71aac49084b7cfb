"""Predicted against measured: how far the numbers of paired runs are from each other, and how well that is known."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from tokencake.experiments.metrics import t95
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
        measured: mean over the measured runs.
        predicted: mean over the predicted runs.
        error: `predicted / measured - 1`; NaN where 0 was measured and something else predicted.
        standard_error: of `error`, from how repeated runs scatter on both sides (a single prediction counts as exact);
            NaN without repeated measurements, or where the mean is 0.
        margin: half the width of the 95 % interval of `error`: `standard_error` times the two-sided 95 % point of
            Student's t at the degrees of freedom that the repeats leave (n - 1 where only the n measurements scatter).
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
    spread: float
    repeats: int


def compare(pairs: Sequence[Pair]) -> list[Row]:
    """Every metric of every pair, and the time of its steps where that was measured."""
    rows = []
    for pair in pairs:
        rows += [_row(pair, name, *pair.values(name)) for name in METRICS]
        times = _step_times(pair.measured)
        if times:
            rows.append(_row(pair, STEP_TIME, *times))
    return rows


def _step_times(measured: Sequence[Run]) -> tuple[list[float], list[float]] | None:
    """Time of each run's steps in all, as its hardware profile has it and as it was measured; None if it was not."""
    tables = [run.table("steps") for run in measured if (run.path / "steps.parquet").exists()]
    if not tables or any("expected_s" not in table for table in tables):
        return None
    return [float(table["expected_s"].sum()) for table in tables], [float(t["duration_s"].sum()) for t in tables]


def _row(pair: Pair, metric: str, predicted: Sequence[float], measured: Sequence[float]) -> Row:
    mean, forecast = fmean(measured), fmean(predicted)
    error = forecast / mean - 1 if mean else (0.0 if forecast == 0 else math.nan)
    scatter = margin = spread = math.nan
    if mean and len(measured) > 1:
        scatter, margin = _scatter(predicted, measured)
        spread = (max(measured) - min(measured)) / mean
    return Row(pair.setting, pair.policy, metric, mean, forecast, error, scatter, margin, spread, len(measured))


def _scatter(predicted: Sequence[float], measured: Sequence[float]) -> tuple[float, float]:
    """Standard error of the ratio of the two means, and half the width of its 95 % interval.

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
