"""A configuration can be run again: no run counts, draws or plays back where another one stopped."""

from dataclasses import replace

import pytest

from tokencake.policies.api import Policy
from tokencake.sim.config import EngineConfig, SimConfig
from tokencake.sim.latency.base import MeasuredRange
from tokencake.sim.latency.linear import LinearCoefficients, LinearLatency, features
from tokencake.sim.latency.profiles import load_profile
from tokencake.sim.latency.recorded import RecordedLatency, RecordedStep
from tokencake.sim.latency.scatter import Scatter, ScatterLatency
from tokencake.sim.latency.table import LatencyTable, TableLatency
from tokencake.sim.run import simulate
from tokencake.traces.schema import LLMNode, Piece, Program

LIMIT = MeasuredRange(decodes=2, decode_context=90, decode_context_sum=9000, step_tokens=64, prefill_length=1000)
STEPS = [(((64, 100),), 3, 900), ((), 3, 903), ((), 4, 1000), (((200, 0),), 0, 0)]


def linear():
    return LinearLatency(LinearCoefficients(500, 20, 0.01, 30, 9, 0.4), None, LIMIT)


def table():
    found = LatencyTable.read(load_profile("a800-qwen2.5-14b").latency.file)
    return TableLatency(replace(found, measured=LIMIT))


def scattered():
    return ScatterLatency(linear(), Scatter(0.2, drift=0.1, drift_s=0.01), seed=1)


def recorded():
    played = [RecordedStep(*features(*step)[1:], 10**9 + i) for i, step in enumerate(STEPS[:2])]
    return RecordedLatency(linear(), played)


MODELS = [linear, table, scattered, recorded]


def programs():
    return [
        Program(f"p{i}", "app", 0.001 * i, (LLMNode("a", (), "x", "t", (Piece(f"q{i}", 90 + 40 * i),), 20 + i),))
        for i in range(6)
    ]


@pytest.mark.parametrize("make", MODELS)
def test_a_fresh_model_has_counted_and_drawn_nothing(make):
    used, new = make(), make()
    times = [used.step_ps(*step) for step in STEPS]
    fresh = used.fresh()
    assert fresh.outside() == new.outside() != used.outside()
    assert [fresh.step_ps(*step) for step in STEPS] == times
    assert fresh.outside() == used.outside(), "each counts for itself"


@pytest.mark.parametrize("make", MODELS)
def test_a_configuration_gives_the_same_run_again(make):
    engine = EngineConfig(60, max_num_batched_tokens=256, max_model_len=900, jumps=False)
    config = SimConfig(engine, make(), 1024)
    first, second = (simulate(programs(), config, Policy()) for _ in range(2))
    assert any(first.summary["outside_measured_range"].values())
    assert second.summary == first.summary
    assert second.calls.columns == first.calls.columns
