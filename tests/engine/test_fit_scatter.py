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


@pytest.mark.parametrize("drift_s", [1.5, 4.0, 10.0])
def test_it_is_found_again(drift_s):
    jitter, drift, lasts = found(Scatter(0.15, 0.12, drift_s))
    assert jitter == pytest.approx(0.15, rel=0.05)
    assert drift == pytest.approx(0.12, rel=0.15)
    assert drift_s / 1.6 < lasts < drift_s * 1.6


def test_steps_may_be_longer_than_a_second():
    slow = LinearLatency(LinearCoefficients(3e6, 100, 0.1, 0, 100, 0.8))
    model = ScatterLatency(slow, Scatter(0.05, 0.2, 60.0), 4)
    shapes = [StepShape((), 1, 10)] * 4000
    scatter = fit_scatter(slow, shapes, [model.step_ps(*shape) / 1e6 for shape in shapes])
    assert scatter.drift == pytest.approx(0.2, rel=0.2)
    assert 40 < scatter.drift_s < 90


def test_an_error_in_all_steps_is_no_scatter():
    shapes, times = measured(Scatter(0.1), 3)
    assert fit_scatter(MODEL, shapes, [1.5 * time for time in times]).drift < 0.02


def test_more_than_can_be_asked_for_is_the_most_of_it():
    shapes, times = measured(Scatter(1.0, 1.0, 20.0), 0)
    scatter = fit_scatter(MODEL, shapes, [time**1.7 for time in times])
    assert 1.0 in (scatter.jitter, scatter.drift)


def test_steps_that_are_independent_have_no_drift():
    """Most of them none at all, and then it lasts no time."""
    fits = [fit_scatter(MODEL, *measured(Scatter(0.15), seed)) for seed in range(7)]
    assert all(fit.jitter == pytest.approx(0.15, rel=0.05) and fit.drift < 0.03 for fit in fits)
    assert sum(fit.drift == 0 == fit.drift_s for fit in fits) > 3


def test_what_is_over_within_a_second_is_no_drift():
    _, drift, _ = found(Scatter(0.05, 0.15, 0.05))
    assert drift < 0.06


@pytest.mark.parametrize("steps", [2, 3, 50])
def test_a_short_measurement_gives_something_usable(steps):
    shapes, times = measured(Scatter(0.1, 0.1, 5.0), 1)
    scatter = fit_scatter(MODEL, shapes[:steps], times[:steps])
    assert ScatterLatency(MODEL, scatter, 0).step_ps(*shapes[0]) > 0
