"""Step times that scatter: the same for a seed, right on average, and no part of what a policy is told."""

import math
from dataclasses import replace
from statistics import correlation, fmean, pstdev

import pytest

from tokencake.policies.api import Policy
from tokencake.sim.config import PS, EngineConfig, SimConfig
from tokencake.sim.latency.base import LatencyModel
from tokencake.sim.latency.linear import LinearCoefficients, LinearLatency
from tokencake.sim.latency.scatter import Scatter, ScatterLatency
from tokencake.sim.run import simulate
from tokencake.traces.schema import LLMNode, Piece, Program

BASE = LinearLatency(LinearCoefficients(500, 20, 0.01, 30, 9, 0.4))
STEP = ((64, 100),), 3, 900
STEP_S = BASE.step_ps(*STEP) / PS


def factors(scatter, seed, count):
    model = ScatterLatency(BASE, scatter, seed)
    return [model.step_ps(*STEP) / BASE.step_ps(*STEP) for _ in range(count)]


def test_it_is_a_latency_model():
    assert isinstance(ScatterLatency(BASE, Scatter(0.1), 0), LatencyModel)


@pytest.mark.parametrize("scatter", [Scatter(0.2), Scatter(0.0, 0.2, 2 * STEP_S), Scatter(0.12, 0.16, 2 * STEP_S)])
def test_factors_have_mean_one_and_the_deviation_asked_for(scatter):
    drawn = factors(scatter, 5, 20_000)
    assert fmean(drawn) == pytest.approx(1, abs=0.01)
    assert pstdev(drawn) == pytest.approx(0.2, rel=0.05)


def test_a_run_may_begin_in_a_slow_hour():
    """The first factor scatters like any other, however long the drift."""
    first = [factors(Scatter(0.0, 0.2, 3600.0), seed, 1)[0] for seed in range(2000)]
    assert fmean(first) == pytest.approx(1, abs=0.015)
    assert pstdev(first) == pytest.approx(0.2, rel=0.1)


def test_jitter_is_over_with_its_step():
    logs = [math.log(factor) for factor in factors(Scatter(0.2), 1, 20_000)]
    assert correlation(logs[1:], logs[:-1]) == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize("steps", [3, 30])
def test_drift_lasts_as_long_as_it_is_said_to(steps):
    """A step of a third of the time is correlated with one three steps on as the process is after the whole time."""
    logs = [math.log(factor) for factor in factors(Scatter(0.0, 0.05, steps * STEP_S), 1, 60_000)]
    assert correlation(logs[1:], logs[:-1]) == pytest.approx(math.exp(-1 / steps), abs=0.02)
    assert correlation(logs[steps:], logs[:-steps]) == pytest.approx(math.exp(-1), abs=0.05)


def test_drift_does_not_change_the_jitter():
    """So that what a seed draws is the same with and without."""
    alone, drift = factors(Scatter(0.1), 3, 50), factors(Scatter(0.0, 0.2, math.nextafter(0, 1)), 3, 50)
    assert factors(Scatter(0.1, 0.2, math.nextafter(0, 1)), 3, 50) == pytest.approx(
        [a * b for a, b in zip(alone, drift, strict=True)], rel=1e-6
    )


def test_policies_are_told_the_mean():
    model = ScatterLatency(BASE, Scatter(0.5, 0.2, 1.0), 1)
    model.step_ps(*STEP)
    assert model.decode_ps(4, 900) == BASE.decode_ps(4, 900)
    assert model.prefill_ps(64, 100) == BASE.prefill_ps(64, 100)


@pytest.mark.parametrize("scatter", [Scatter(0.1), Scatter(0.05, 0.1, 0.003)], ids=["jitter", "drift too"])
def test_a_draw_is_repeatable_and_draws_differ(scatter):
    config = SimConfig(EngineConfig(60, max_num_batched_tokens=256, max_model_len=900, jumps=False), BASE, 1024)
    programs = [
        Program(f"p{i}", "app", 0.001 * i, (LLMNode("a", (), "x", "t", (Piece(f"q{i}", 90 + 40 * i),), 20 + i),))
        for i in range(6)
    ]

    def makespan(draw):
        again = replace(config, latency=ScatterLatency(BASE, scatter, draw))
        return simulate(programs, again, Policy()).summary["makespan_s"]

    assert makespan(0) == makespan(0)
    assert len({makespan(draw) for draw in range(5)}) == 5
    assert fmean(makespan(draw) for draw in range(20)) == pytest.approx(
        simulate(programs, config, Policy()).summary["makespan_s"], rel=0.02
    )


@pytest.mark.parametrize("deviation", [-0.1, 1.5, float("nan")])
@pytest.mark.parametrize("name", ["jitter", "drift"])
def test_a_deviation_that_makes_no_sense_is_refused(name, deviation):
    with pytest.raises(ValueError, match=f"{name}: must be >= 0 and <= 1"):
        Scatter(**{name: deviation}, drift_s=1.0)


@pytest.mark.parametrize(("drift", "drift_s"), [(0.1, 0.0), (0.1, -1.0), (0.1, math.inf), (0.1, math.nan), (0.0, 1.0)])
def test_a_drift_has_a_time_and_no_drift_has_none(drift, drift_s):
    with pytest.raises(ValueError, match="drift_s: must be"):
        Scatter(0.1, drift, drift_s)


def test_steps_cannot_be_jumped_over():
    with pytest.raises(RuntimeError, match="one by one"):
        ScatterLatency(BASE, Scatter(0.1), 0).note_jump(3, 1, 100)
