"""What a calibration finds of the scatter of step times is what was put into it."""

import random
from statistics import median

import pytest

from tokencake.engine.fit import fit_scatter
from tokencake.engine.shape import StepShape
from tokencake.sim.latency.linear import LinearCoefficients, LinearLatency
from tokencake.sim.latency.scatter import Scatter, ScatterLatency

MODEL = LinearLatency(LinearCoefficients(5000, 100, 0.1, 0, 100, 0.8))
SECONDS = 200


def measured(scatter, seed):
    """Shapes and times of a few minutes of steps, in microseconds."""
    rng, model, total = random.Random(seed), ScatterLatency(MODEL, scatter, seed), 0.0
    shapes, times = [], []
    while total < SECONDS:
        decodes = rng.randint(1, 16)
        prefill = ((rng.randint(1, 900), rng.randint(0, 900)),) if rng.random() < 0.1 else ()
        shapes.append(StepShape(prefill, decodes, decodes * rng.randint(10, 2000)))
        times.append(model.step_ps(*shapes[-1]) / 1e6)
        total += times[-1] / 1e6
    return shapes, times


def found(scatter, seeds=7):
    fits = [fit_scatter(MODEL, *measured(scatter, seed)) for seed in range(seeds)]
    return [median(getattr(fit, name) for fit in fits) for name in ("jitter", "drift", "drift_s")]


@pytest.mark.parametrize("drift_s", [2.0, 10.0])
def test_it_is_found_again(drift_s):
    jitter, drift, lasts = found(Scatter(0.15, 0.12, drift_s))
    assert jitter == pytest.approx(0.15, rel=0.1)
    assert drift == pytest.approx(0.12, rel=0.25)
    assert drift_s / 2 < lasts < drift_s * 2


def test_steps_that_are_independent_have_next_to_no_drift():
    jitter, drift, _ = found(Scatter(0.15))
    assert jitter == pytest.approx(0.15, rel=0.05)
    assert drift < 0.03


def test_what_is_over_within_a_second_is_no_drift():
    _, drift, _ = found(Scatter(0.05, 0.15, 0.05))
    assert drift < 0.06


@pytest.mark.parametrize("steps", [2, 3, 50])
def test_a_short_measurement_gives_something_usable(steps):
    shapes, times = measured(Scatter(0.1, 0.1, 5.0), 1)
    scatter = fit_scatter(MODEL, shapes[:steps], times[:steps])
    assert ScatterLatency(MODEL, scatter, 0).step_ps(*shapes[0]) > 0
