"""What a policy may ask of a view: what an admission would take, whose blocks are whose, who loads."""

import pytest

from tokencake.policies.api import EventKind, Offload, Policy, Verdict, stock_admit
from tokencake.policies.vllm_offload import VllmOffload
from tokencake.sim.config import EngineConfig, SimConfig, WorkloadConfig
from tokencake.sim.latency.linear import LinearCoefficients, LinearLatency
from tokencake.sim.run import simulate
from tokencake.traces.schema import LLMNode, Piece, ToolNode


class Asks(Policy):
    """Compares the view's answer with the need that the host offers."""

    def __init__(self):
        self.pairs = []

    def admit(self, view, call, need):
        self.pairs.append((view.need(call), need))
        return stock_admit(need)


def test_need_is_what_the_host_offers(play, program, call):
    """With the whole budget left; asking twice changes nothing."""
    programs = [
        program("a", call("a", 30, 8, content="x")),
        program("b", call("b", 40, 8, content="x"), at_s=0.002),
        program("c", call("c", 60, 8), at_s=0.004),
    ]
    policy = Asks()
    asked = play(programs, policy)
    assert all(answer == need for answer, need in policy.pairs)
    assert {need.fits for _, need in policy.pairs} == {True, False}
    assert asked.calls.columns == play(programs, Policy()).calls.columns


def test_only_waiting_calls_have_a_need(play, program, call):
    class Looks(Policy):
        seen = None

        def admit(self, view, call, need):
            if view.running:
                self.seen = [view.need(running) for running in view.running]
            return Verdict.ADMIT

    policy = Looks()
    play([program("a", call("a", 8, 8)), program("b", call("b", 8), at_s=0.002)], policy)
    assert policy.seen == [None]


@pytest.mark.parametrize("runs", [True, False])
def test_own_blocks_are_those_that_nobody_else_holds(play, program, call, runs):
    """Two calls share 16 of their tokens; the third block of 'b' onwards is its own."""

    class Looks(Policy):
        seen = ()

        def victim(self, view, need, for_call):
            self.seen = self.seen or {c.node: (c.gpu_blocks, c.own_blocks) for c in view.running}
            return view.running[-1]

    programs = [
        program("a", LLMNode("a", (), "x", "x", (Piece("common", 16), Piece("a", 8)), 40)),
        program("b", LLMNode("b", (), "x", "x", (Piece("common", 16), Piece("b", 8)), 40), at_s=0.0005),
    ]
    policy = Looks()
    result = play(programs, policy, runs=runs)
    assert result.summary["preemptions"] > 0
    blocks, own = policy.seen["b"]
    assert own == blocks - 4
    assert policy.seen["a"][1] == policy.seen["a"][0] - 4


def test_loading_calls_are_shown(play, program, turn, call):
    class Looks(VllmOffload):
        def __init__(self):
            super().__init__()
            self.seen = set()

        def observe(self, event, view):
            self.seen |= {c.node for c in view.loading}

    policy = Looks()
    flood = program("flood", call("b", 70, 10), at_s=0.05)
    later = program("later", call("late", 4), at_s=0.11)
    play([program("p", *turn(16, 6)), flood, later], policy)
    assert policy.seen == {"second"}


# -- copies that hold nothing -----------------------------------------------------------------------


@pytest.fixture
def copying(scripted):
    """Copies the chain of 'first' 20 ms after it ended."""

    def make(*, hold):
        sent = []

        def copy(view, subject):
            if not sent and view.now >= 0.02 and view.stalled:
                sent.append(view.gpu.free)
                return (Offload(call=view.stalled[0].call.id, hold=hold),)
            return ()

        policy = scripted({("STEP", ""): copy})
        policy.sent = sent
        return policy

    return make


@pytest.mark.parametrize("runs", [True, False])
@pytest.mark.parametrize("hold", [True, False])
def test_a_copy_without_hold_leaves_memory_to_others(play, program, call, turn, row, copying, hold, runs):
    """'big' needs all twenty blocks; a held copy (16 ms) keeps four of them from it, a fenced one delays its step."""
    programs = [
        program("p", *turn(16)),
        program("tick", call("tick", 4), at_s=0.02),
        program("big", call("big", 80), at_s=0.0215),
    ]
    policy = copying(hold=hold)
    big = row(play(programs, policy, max_num_batched_tokens=100, runs=runs).calls, "big")
    assert policy.refusals() == []
    done = pytest.approx(0.02 + 0.016, abs=0.0011)
    if hold:
        assert big["admitted_s"] == done
    else:
        assert big["admitted_s"] < 0.023
        assert big["first_token_s"] == pytest.approx(0.037, abs=0.0011)  # its step waits for the copy


# -- when an application is heard ---------------------------------------------------------------------


def test_tools_are_heard_of_half_a_round_trip_later(program, call, turn, scripted):
    nodes = (*turn(16, 1, tool_s=0.1), ToolNode("last", ("second",), "web", 0.1, None))
    latency = LinearLatency(LinearCoefficients(1000))
    config = SimConfig(EngineConfig(20, 4), latency, 1000, workload=WorkloadConfig(client_delay_s=0.04))
    policy = scripted()
    result = simulate([program("p", *nodes)], config, policy)
    heard = {(e.kind, e.node): e for e in policy.events if e.node}
    assert heard[EventKind.TOOL_STARTED, "tool"].at == pytest.approx(0.001 + 0.02)
    assert heard[EventKind.TOOL_FINISHED, "tool"].at == pytest.approx(0.101 + 0.02)
    assert heard[EventKind.TOOL_FINISHED, "tool"].elapsed_s == pytest.approx(0.1)
    assert result.calls.columns["arrival_s"][1] == pytest.approx(0.101 + 0.04)
    # Nothing follows the last tool: it is heard of at once.
    assert heard[EventKind.TOOL_FINISHED, "last"].at == pytest.approx(0.142 + 0.1)
    assert result.summary["makespan_s"] == pytest.approx(0.242)
