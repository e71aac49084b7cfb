"""Recorded step times: replayed in order, and told apart from steps that are not the recorded ones."""

import dataclasses

import pytest

from tokencake.policies.api import Policy
from tokencake.sim.config import EngineConfig, SimConfig
from tokencake.sim.latency.base import LatencyModel
from tokencake.sim.latency.linear import LinearCoefficients, LinearLatency, features
from tokencake.sim.latency.recorded import RecordedLatency, RecordedStep
from tokencake.sim.run import simulate
from tokencake.traces.schema import LLMNode, Piece, Program

BASE = LinearCoefficients(500, 20, 0.01, 30, 9, 0.4)


class Recorder(LinearLatency):
    """A linear model that notes what it was asked, and takes a different time for every step."""

    def __init__(self):
        super().__init__(BASE)
        self.steps = []

    def step_ps(self, prefill, decodes, decode_context):
        time = super().step_ps(prefill, decodes, decode_context) + 1_234_567 * (len(self.steps) % 7)
        self.steps.append(RecordedStep(*features(prefill, decodes, decode_context)[1:], time))
        return time


def config(latency, **engine):
    return SimConfig(
        EngineConfig(60, max_num_batched_tokens=256, max_model_len=900, jumps=False, **engine), latency, 1024
    )


def programs():
    return [
        Program(
            f"p{i}", "app", 0.001 * i,
            (LLMNode("a", (), "x", "t", (Piece("system", 64), Piece(f"q{i}", 90 + 40 * i)), 20 + i),),
        )
        for i in range(6)
    ]  # fmt: skip


def test_it_is_a_latency_model():
    assert isinstance(RecordedLatency(LinearLatency(BASE), []), LatencyModel)


def test_a_replay_gives_the_recorded_run_again():
    recorder = Recorder()
    first = simulate(programs(), config(recorder), Policy())
    again = simulate(programs(), config(RecordedLatency(LinearLatency(BASE), recorder.steps)), Policy())
    assert again.programs.columns == first.programs.columns
    assert again.calls.columns == first.calls.columns
    assert again.summary["outside_measured_range"]["not_as_recorded"] == 0
    modelled = simulate(programs(), config(LinearLatency(BASE)), Policy())
    assert modelled.summary["makespan_s"] != first.summary["makespan_s"], "the recording says something of its own"


def test_other_steps_take_the_time_of_the_base_model_and_are_counted():
    recorder = Recorder()
    simulate(programs(), config(recorder), Policy())
    other = RecordedLatency(LinearLatency(BASE), recorder.steps)
    result = simulate([dataclasses.replace(programs()[0], program="alone")], config(other), Policy())
    assert result.summary["outside_measured_range"]["not_as_recorded"] > 0
    past_the_end = RecordedLatency(LinearLatency(BASE), recorder.steps[:3])
    result = simulate(programs(), config(past_the_end), Policy())
    assert result.summary["outside_measured_range"]["not_as_recorded"] == len(recorder.steps) - 3


def test_steps_are_not_jumped_over():
    with pytest.raises(RuntimeError, match="one by one"):
        RecordedLatency(LinearLatency(BASE), []).note_jump(3, 1, 10)
