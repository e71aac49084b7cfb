"""Fast equals slow: jumps and runs change no byte of the output, whatever a policy does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokencake.policies.api import Budget, EventKind, Policy, Verdict
from tokencake.sim.config import EngineConfig, SimConfig
from tokencake.sim.latency.linear import LinearCoefficients, LinearLatency
from tokencake.sim.run import simulate
from tokencake.traces.schema import LLMNode, Piece, Program


def bytes_of(result):
    """All tables and the summary, as one text."""
    tables = (result.programs, result.calls, result.transfers, result.kv, result.decisions)
    return repr([table.columns for table in tables] + [result.summary])


@given(data=st.data())
def test_jumps_and_runs_change_nothing(data, worlds, with_engine):
    programs, config, make_policy = data.draw(worlds)
    slow = simulate(programs, with_engine(config, jumps=False, runs=False), make_policy())
    assert slow.summary["programs"] == len(programs)
    expected = bytes_of(slow)
    for jumps, runs in ((True, False), (False, True), (True, True)):
        fast = simulate(programs, with_engine(config, jumps=jumps, runs=runs), make_policy())
        assert bytes_of(fast) == expected, (jumps, runs)


class Logs(Policy):
    """Has a budget that is another one after each event; a decision log says in which step it became that."""

    events = 0

    def observe(self, event, view):
        self.events += 1

    def budget(self, view):
        return Budget(100 + self.events)


class Yields(Policy):
    """Insists on a call that does not fit, until it has been told so a few times."""

    refusals = 0

    def observe(self, event, view):
        self.refusals += event.kind is EventKind.ACTION_REFUSED

    def admit(self, view, call, need):
        return Verdict.ADMIT if need.fits or self.refusals < 5 else Verdict.SKIP


@pytest.mark.parametrize("policy", [Logs, Yields])
def test_a_policy_that_learns_from_what_it_is_told_decides_the_same(policy, with_engine):
    engine = EngineConfig(gpu_blocks=10, block_size=16, max_num_batched_tokens=256, max_num_seqs=8)
    config = SimConfig(engine, LinearLatency(LinearCoefficients(1000)), 1000, log_decisions=True)
    programs = [
        Program(name, "app", at_s, (LLMNode("c", (), "a", "a", (Piece(name, prompt),), 64),))
        for name, at_s, prompt in (("fits", 0.0, 64), ("not", 0.01, 90))
    ]
    fast, slow = (simulate(programs, with_engine(config, jumps=jumps), policy()) for jumps in (True, False))
    assert bytes_of(fast) == bytes_of(slow)
