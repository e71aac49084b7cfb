"""continuum: how long it keeps, what that is worth, and when it must not."""

import pytest

from tokencake.policies.api import Event, EventKind
from tokencake.policies.continuum import Continuum, Turns, best_time_to_live
from tokencake.policies.vllm import Vllm
from tokencake.sim.latency.linear import LinearCoefficients

COSTLY = LinearCoefficients(1000, per_prefill_token_us=1000)
"""A millisecond a step and one a prompt token: computing 16 tokens again takes 17 ms."""


@pytest.fixture
def case(play, program, turn, call, row):
    """A tool of ``taught_s`` teaches; then comes one of ``tool_s``, and a flood while it and another call run."""

    def run(policy, taught_s, tool_s):
        teacher = program("teacher", *turn(16, tool_s=taught_s, content="other"))
        start = taught_s + 1.0
        pupil = program("pupil", *turn(16, tool_s=tool_s), at_s=start)
        busy = program("busy", call("busy", 4, 40), at_s=start)
        flood = program("flood", call("flood", 100), at_s=start + 0.024)
        result = play([teacher, pupil, busy, flood], policy, latency=COSTLY, gpu_blocks=30)
        return result, row(result.calls, "pupil/second")["gpu_hit_tokens"]

    return run


def test_a_short_tool_finds_its_kv(case):
    """Reload costs 17 ms and the tool takes 10: keeping is worth it, and the flood waits for 10 ms."""
    assert case(Continuum(samples=1), 0.010, 0.010)[1] == 16
    assert case(Vllm(), 0.010, 0.010)[1] < 16


def test_a_long_tool_is_not_waited_for(case):
    """A tool that takes longer than reload is not worth its memory: nothing is kept, as in stock vLLM."""
    result, hit = case(Continuum(samples=1), 3.0, 3.0)
    assert hit < 16
    assert result.summary["stalled_kv_gb_s"] == 0


@pytest.mark.parametrize(("tool_s", "kept"), [(0.009, True), (0.010, True), (0.013, False)])
def test_time_to_live_against_tool(case, tool_s, kept):
    """A time to live of 10 ms: a tool that takes exactly as long still finds its KV."""
    result, found = case(Continuum(samples=1), 0.010, tool_s)
    assert (found == 16) is kept
    assert result.summary["events"].get("pin_expired", 0) == (not kept)


@pytest.mark.parametrize("level", ["ORACLE", "CLASS_MEAN"])
def test_tools_without_variance_make_history_an_oracle(case, level):
    from tokencake.policies.api import Info

    oracle = Continuum(samples=1)
    oracle.info = Info[level]
    # The teacher's own stall is where the two differ: nothing has been measured yet.
    learned, known = case(Continuum(samples=1, prior_s=0.0001), 0.010, 0.010), case(oracle, 0.010, 0.010)
    assert learned[0].calls.columns["finish_s"] == known[0].calls.columns["finish_s"]


def test_the_best_time_to_live():
    """Chance 1/3, 2/3, 1 of 9 s: gains of 2, 4 and -1 s."""
    assert best_time_to_live([1.0, 2.0, 10.0], 9.0) == 2.0
    assert best_time_to_live([1.0, 2.0, 10.0], 0.5) == 0.0


def turns(*lengths):
    found = Turns(0.25)
    for i, length in enumerate(lengths):
        for _ in range(length):
            found.observe(Event(EventKind.CALL_FINISHED, 0.0, program=f"p{i}"))
        found.observe(Event(EventKind.PROGRAM_FINISHED, 0.0, program=f"p{i}"))
    return found.eta


def test_eta():
    """Programs of equal length: each call done is one fewer left. Of no length but one: undefined."""
    assert turns(5, 5) == pytest.approx(1.0)
    assert turns(1, 1) == 0.25
    # k, N - k: (1,1) (2,0) (1,3) (2,2) (3,1) (4,0): correlation -25/41 by hand.
    assert turns(2, 4) == pytest.approx(25 / 41)


def test_pressure_drops_the_latest_program(play, program, turn, call, row):
    """Both chains are kept for a minute and nothing can run: the earlier program keeps its KV."""
    early = program("early", *turn(16, tool_s=60.0))
    late = program("late", *turn(20, tool_s=60.0, content="other"), at_s=0.001)
    needy = program("needy", call("needy", 60), at_s=1.0)
    patient = Continuum(prior_s=10.0)
    result = play([early, late, needy], patient, latency=LinearCoefficients(10**6, per_prefill_token_us=10**8))
    assert row(result.calls, "early/second")["gpu_hit_tokens"] == 16
    assert row(result.calls, "late/second")["gpu_hit_tokens"] == 0


def test_a_return_of_one_of_several_tools_does_not_end_the_time(play, program, call):
    """Two tools follow; one ends at once, the other never within the time: the pin expires as it would have."""
    from tokencake.traces.schema import ToolNode

    def forked(slow_s):
        return program(
            "p",
            call("a", 16, 2),
            ToolNode("fast", ("a",), "fast", 0.001),
            ToolNode("slow", ("a",), "slow", slow_s),
            call("b", 4, 1, after=("fast",)),
            call("c", 4, 1, after=("slow",)),
        )

    class Fixed(Continuum):
        def time_to_live(self, view, chain):
            return 0.05 if chain.next_tools else 0.0

    late = play([forked(1.0)], Fixed(), latency=LinearCoefficients(1000))
    assert late.summary["events"]["pin_expired"] == 1
    soon = play([forked(0.02)], Fixed(), latency=LinearCoefficients(1000))
    assert "pin_expired" not in soon.summary["events"]
