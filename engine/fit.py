"""Fits the linear latency model to measured steps, and says how far it is off on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tokencake.engine.shape import StepShape
from tokencake.sim.latency.linear import LinearCoefficients, LinearLatency, features

Floats = NDArray[np.float64]

WINDOW: Final = 50
"""Steps that are summed for the second error."""

_ROUNDS: Final = 8


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

    With these weights the mean relative error is zero, so that sums of steps come out right; times are
    skewed (something else ran meanwhile), and a fit of medians would promise too little.

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
    """Least squares where the most negative coefficient is dropped until none is left."""
    active = [i for i in range(inputs.shape[1]) if inputs[:, i].any()]
    while True:
        found, *_ = np.linalg.lstsq(inputs[:, active], times, rcond=None)
        worst = int(np.argmin(found))
        if found[worst] >= 0:
            break
        del active[worst]
    solution = np.zeros(inputs.shape[1])
    solution[active] = found
    return solution


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


def _relative(predicted: Floats, measured: Floats) -> float:
    return float(np.mean(np.abs(predicted / measured - 1)))


def _sums(values: Floats) -> Floats:
    edges = np.arange(0, max(1, len(values) - WINDOW + 1), WINDOW)
    sums: Any = np.add.reduceat(values[: edges[-1] + WINDOW], edges)
    return np.asarray(sums, dtype=float)
