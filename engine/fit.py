"""Fits the linear latency model to measured steps, and says how far it is off on others, and how steps scatter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tokencake.engine.shape import StepShape
from tokencake.sim.latency.linear import LinearCoefficients, LinearLatency, features
from tokencake.sim.latency.scatter import Scatter

Floats = NDArray[np.float64]

WINDOW: Final = 50
"""Steps that are summed for the second error."""

_ROUNDS: Final = 8

_SHARES: Final = np.arange(1, 20) / 20
"""Shares of the variance that a slow factor is tried to have."""

_PER_DECADE: Final = 8
"""Correlation times of a slow factor that are tried, per factor of ten."""

DRIFT_SECONDS: Final = 10
"""A measurement of fewer seconds says nothing of slow factors."""


@dataclass(frozen=True, slots=True)
class FitError:
    """How far a model is off on steps that the fit never saw, as fractions.

    Attributes:
        steps: Number of steps.
        step: Mean absolute error of a step.
        window: Mean absolute error of the sum of `WINDOW` consecutive steps.
        total: Signed error of the sum of all.
    """

    steps: int
    step: float
    window: float
    total: float


def fit_linear(shapes: Sequence[StepShape], times_us: Sequence[float]) -> LinearCoefficients:
    """Least squares with non-negative coefficients; the variance of a step is taken to grow with its time.

    With these weights the steps take as long in all as they did (and the mean relative error is zero, unless the
    constant is); times are skewed (something else ran meanwhile), and a fit of medians would promise too little.

    Args:
        shapes: What was computed.
        times_us: How long it took, in microseconds.
    """
    inputs: Floats = np.array([features(*shape) for shape in shapes], dtype=float)
    times: Floats = np.asarray(times_us, dtype=float)
    weights = 1 / np.sqrt(times)
    solution = np.zeros(inputs.shape[1])
    for _ in range(_ROUNDS):
        solution = _non_negative(inputs * weights[:, None], times * weights)
        weights = 1 / np.sqrt(np.maximum(inputs @ solution, times.min()))
    return LinearCoefficients(*(float(f"{value:.6g}") for value in solution))


def _non_negative(inputs: Floats, times: Floats) -> Floats:
    """The non-negative least-squares solution: the best of all sets of columns whose own solution is non-negative.

    (Lawson and Hanson, Solving Least Squares Problems, ch. 23, find it with fewer sets; here there are 63.)
    """
    present = [i for i in range(inputs.shape[1]) if inputs[:, i].any()]
    best, least = np.zeros(inputs.shape[1]), float(times @ times)
    for count in range(len(present), 0, -1):
        for active in map(list, combinations(present, count)):
            found, *_ = np.linalg.lstsq(inputs[:, active], times, rcond=None)
            error = float(np.sum((inputs[:, active] @ found - times) ** 2))
            if found.min() >= 0 and error < least:
                least = error
                best = np.zeros(inputs.shape[1])
                best[active] = found
    return best


def fit_error(model: LinearLatency, shapes: Sequence[StepShape], times_us: Sequence[float]) -> FitError:
    """Errors of a model on measured steps, given in the order in which they ran."""
    predicted: Floats = np.array([model.step_ps(*shape) / 1e6 for shape in shapes])
    measured: Floats = np.asarray(times_us, dtype=float)
    return FitError(
        len(measured),
        _relative(predicted, measured),
        _relative(_sums(predicted), _sums(measured)),
        float(predicted.sum() / measured.sum() - 1),
    )


def fit_scatter(model: LinearLatency, shapes: Sequence[StepShape], times_us: Sequence[float]) -> Scatter:
    """How measured steps, given in the order in which they ran, scatter around a model.

    The slow factor is that of whole seconds: a schedule hardly feels what is over within one, yet the many steps
    would fit nothing else. The logarithms of measured over predicted seconds are taken for an Ornstein-Uhlenbeck
    process plus white noise, of which a Kalman filter gives the likelihood (Harvey, Forecasting, Structural Time
    Series Models and the Kalman Filter, section 3.4; the variance is concentrated out); the most likely point of a
    grid is taken. What lasts longer than the measurement counts as lasting that long. All variance of single steps
    that is not the slow factor's is their own.

    Where the model is wrong about a load, it is so for as long as the load lasts; that is counted as the slow
    factor's, too.
    """
    predicted: Floats = np.array([model.step_ps(*shape) / 1e12 for shape in shapes])
    measured: Floats = np.asarray(times_us, dtype=float) / 1e6
    total = float(np.var(np.log(measured / predicted)))
    ends = np.cumsum(measured)
    _, starts = np.unique(ends // 1, return_index=True)
    seconds: Floats = np.add.reduceat(measured, starts)[:-1]  # the last one was cut short
    duration = float(seconds.sum())
    if duration < DRIFT_SECONDS:
        return _scatter(total, 0.0, 0.0)
    errors = np.log(seconds / np.add.reduceat(predicted, starts)[:-1])
    times = np.geomspace(1, duration, round(_PER_DECADE * np.log10(duration)))
    share, lasts = (axis.ravel() for axis in np.meshgrid(_SHARES, times))
    share, lasts = np.append(0.0, share), np.append(1.0, lasts)
    likelihood, variance = _filtered(errors - errors.mean(), seconds, share, lasts)
    best = int(np.argmax(likelihood))
    lasting = float(lasts[best])
    part = float(seconds.mean()) / lasting
    averaged = 2 * (part + float(np.expm1(-part))) / part**2  # of the variance is in the mean over such a part
    slow = float(share[best] * variance[best]) / averaged
    return _scatter(total, slow, lasting)


def _scatter(total: float, slow: float, lasting_s: float) -> Scatter:
    """Deviations from variances, rounded for people; where they exceed what can be asked for, the most of that."""
    jitter, drift = (round(min(1.0, max(0.0, variance) ** 0.5), 4) for variance in (total - slow, slow))
    return Scatter(jitter, drift, round(lasting_s, 2)) if drift else Scatter(jitter)


def _filtered(errors: Floats, times_s: Floats, share: Floats, lasts_s: Floats) -> tuple[Floats, Floats]:
    """Log-likelihood and variance for each pair of a slow process's share of the variance and correlation time."""
    state: Floats = np.zeros(len(share))
    spread = share.copy()  # variance of the state, in units of the whole variance
    squares, logs = np.zeros(len(share)), np.zeros(len(share))
    for error, time_s in zip(errors, times_s, strict=True):
        expected = spread + (1 - share)
        surprise = error - state
        squares += surprise**2 / expected
        logs += np.log(expected)
        gain = spread / expected
        state = state + gain * surprise
        spread = spread * (1 - gain)
        kept = np.exp(-time_s / lasts_s)
        state *= kept
        spread = kept**2 * spread + (1 - kept**2) * share
    variance: Floats = squares / len(errors)
    return -(len(errors) * np.log(variance) + logs) / 2, variance


def _relative(predicted: Floats, measured: Floats) -> float:
    return float(np.mean(np.abs(predicted / measured - 1)))


def _sums(values: Floats) -> Floats:
    edges = np.arange(0, max(1, len(values) - WINDOW + 1), WINDOW)
    sums: Any = np.add.reduceat(values[: edges[-1] + WINDOW], edges)
    return np.asarray(sums, dtype=float)
