"""mori and cachedattention: what lies where, and for whom."""

import pytest

from tokencake.policies.api import Event, EventKind
from tokencake.policies.cached_attention import CachedAttention
from tokencake.policies.mori import Mori
from tokencake.policies.vllm import Vllm
from tokencake.policies.vllm_offload import VllmOffload
from tokencake.sim.config import LinkConfig
from tokencake.sim.latency.linear import LinearCoefficients

COSTLY = LinearCoefficients(1000, per_prefill_token_us=1000)
FAST = LinkConfig(0.1, 0.1)


def moved(result, cause):
    columns = result.transfers.columns
    return [name for name, c in zip(columns["call"], columns["cause"], strict=True) if c == cause]


@pytest.fixture
def crowd(session, play):
    """Six conversations of 200 to 330 tokens on a GPU of 800: two of them have tools of three seconds."""

    def run(policy, count=6, **engine):
        tools = [3.0, 3.0, 0.05, 0.05, 0.05, 0.05]
        programs = [session(f"p{i}", turns=4, tool_s=tools[i], at_s=0.01 * i) for i in range(count)]
        settings = {"gpu_blocks": 200, "cpu_blocks": 400, "max_num_batched_tokens": 512, "latency": COSTLY}
        return play(programs, policy, link=FAST, **settings | engine)

    return run


def test_the_idle_make_room_in_the_cpu_tier(crowd):
    """Programs with long tools go to the CPU and come back from it; nobody computes a context twice."""
    mori, stock = crowd(Mori(interval_s=0.3)), crowd(Vllm())
    assert moved(mori, "offload")
    hits = mori.summary["prefill_tokens"]
    found = hits["gpu_hit"] + hits["cpu_hit"]
    assert found > stock.summary["prefill_tokens"]["gpu_hit"] + stock.summary["prefill_tokens"]["cpu_hit"]
    assert mori.summary["makespan_s"] < stock.summary["makespan_s"]


def test_where_all_fit_nobody_is_moved(crowd):
    """Three contexts fit: idle or not, nothing is demoted, and every call is served as by stock vLLM."""
    mori, stock = (crowd(policy, count=3, gpu_blocks=400) for policy in (Mori(interval_s=0.3), Vllm()))
    assert not moved(mori, "offload")
    assert mori.calls.columns == stock.calls.columns


def test_idleness_is_the_share_of_tools_without_waiting():
    """Three seconds of waiting, one of service, three of tools: idle for three quarters."""
    policy = Mori()
    for kind, at in (
        (EventKind.CALL_QUEUED, 0.0),
        (EventKind.CALL_ADMITTED, 3.0),
        (EventKind.CALL_FINISHED, 4.0),
    ):
        policy.observe(Event(kind, at, program="p", call="p/a"), None)
    assert policy.idleness("p", 7.0) == pytest.approx(0.75)
    policy.observe(Event(EventKind.CALL_QUEUED, 7.0, program="p", call="p/b"), None)
    assert policy.idleness("p", 99.0) == pytest.approx(0.75)  # what waits is not idle
    assert policy.idleness("new", 1.0) == 0.0


def test_only_the_last_cycles_count():
    policy = Mori(cycles=1)
    for i, (served, acted) in enumerate(((1.0, 99.0), (1.0, 1.0))):
        at = 1000.0 * i
        for kind, when in (
            (EventKind.CALL_QUEUED, at),
            (EventKind.CALL_ADMITTED, at),
            (EventKind.CALL_FINISHED, at + served),
        ):
            policy.observe(Event(kind, when, program="p", call=f"p/{i}"), None)
        last = at + served + acted
    assert policy.idleness("p", last) == pytest.approx(0.5)


@pytest.mark.parametrize(("policy", "found"), [(CachedAttention, 16), (lambda: VllmOffload(prompt_only=False), 0)])
def test_the_queue_protects_what_it_needs(play, program, turn, call, row, policy, found):
    """'first' waits while others fill the host memory: least recently used, its session goes; looking ahead, not."""
    programs = [
        program("first", *turn(16, tool_s=0.1, content="f")),
        program("flood", call("flood", 76), at_s=0.02),
        program("long", call("long", 8, 60), at_s=0.08),  # has the one place until 140 ms, then stores 17 blocks
        program("next", call("next", 8), at_s=0.09),  # comes before first's second call, which waits from 102 ms on
    ]
    result = play(programs, policy(), cpu_blocks=26, max_num_seqs=1, link=LinkConfig(1, 1))
    second = row(result.calls, "first/second")
    assert (second["cpu_hit_tokens"] + second["gpu_hit_tokens"] == 16) == (found == 16)


def test_without_a_queue_it_is_offloading(session, play):
    """Nobody waits, so there is nothing to look ahead at: every call is served as with vLLM's own connector."""
    programs = [session(f"p{i}", turns=4, tool_s=0.1, at_s=1.0 * i) for i in range(4)]
    settings = {"gpu_blocks": 100, "cpu_blocks": 300, "max_num_batched_tokens": 512, "link": FAST}
    ahead, plain = (play(programs, p, **settings) for p in (CachedAttention(), VllmOffload(prompt_only=False)))
    assert ahead.calls.columns["finish_s"] == plain.calls.columns["finish_s"]


@pytest.mark.parametrize(("params", "rule"), [({"interval_s": 0.0}, "interval_s"), ({"cycles": 0}, "cycles")])
def test_parameters_are_checked(params, rule):
    with pytest.raises(ValueError, match=rule):
        Mori(**params)
