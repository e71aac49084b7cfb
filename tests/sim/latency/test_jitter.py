"""Step times with jitter: the same for a seed, right on average, and no part of what a policy is told."""

from dataclasses import replace
from statistics import fmean, pstdev

import pytest

from tokencake.policies.api import Policy
from tokencake.sim.config import EngineConfig, SimConfig
from tokencake.sim.latency.base import LatencyModel
from tokencake.sim.latency.jitter import JitterLatency
from tokencake.sim.latency.linear import LinearCoefficients, LinearLatency
from tokencake.sim.run import simulate
from tokencake.traces.schema import LLMNode, Piece, Program

BASE = LinearLatency(LinearCoefficients(500, 20, 0.01, 30, 9, 0.4))
STEP = ((64, 100),), 3, 900


def test_it_is_a_latency_model():
    assert isinstance(JitterLatency(BASE, 0.1, 0), LatencyModel)


def test_factors_have_mean_one_and_the_deviation_asked_for():
    model = JitterLatency(BASE, 0.2, 5)
    factors = [model.step_ps(*STEP) / BASE.step_ps(*STEP) for _ in range(20_000)]
    assert fmean(factors) == pytest.approx(1, abs=0.005)
    assert pstdev(factors) == pytest.approx(0.2, rel=0.05)


def test_policies_are_told_the_mean():
    model = JitterLatency(BASE, 0.5, 1)
    model.step_ps(*STEP)
    assert model.decode_ps(4, 900) == BASE.decode_ps(4, 900)
    assert model.prefill_ps(64, 100) == BASE.prefill_ps(64, 100)


def test_a_draw_is_repeatable_and_draws_differ():
    config = SimConfig(EngineConfig(60, max_num_batched_tokens=256, max_model_len=900, jumps=False), BASE, 1024)
    programs = [
        Program(f"p{i}", "app", 0.001 * i, (LLMNode("a", (), "x", "t", (Piece(f"q{i}", 90 + 40 * i),), 20 + i),))
        for i in range(6)
    ]

    def makespan(draw):
        again = replace(config, latency=JitterLatency(BASE, 0.1, draw))
        return simulate(programs, again, Policy()).summary["makespan_s"]

    assert makespan(0) == makespan(0)
    assert len({makespan(draw) for draw in range(5)}) == 5
    assert fmean(makespan(draw) for draw in range(20)) == pytest.approx(
        simulate(programs, config, Policy()).summary["makespan_s"], rel=0.02
    )


@pytest.mark.parametrize("deviation", [0, -0.1, 1.5, float("nan")])
def test_a_deviation_that_makes_no_sense_is_refused(deviation):
    with pytest.raises(ValueError, match="jitter must be > 0 and <= 1"):
        JitterLatency(BASE, deviation, 0)


def test_steps_cannot_be_jumped_over():
    with pytest.raises(RuntimeError, match="one by one"):
        JitterLatency(BASE, 0.1, 0).note_jump(3, 1, 100)
