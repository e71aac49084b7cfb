"""tokencake-upstream: each mechanism on a trace where it must win, and on one where it must not."""

import pytest

from tokencake.policies import registry
from tokencake.policies.api import Policy
from tokencake.policies.tokencake_upstream import TokencakeUpstream
from tokencake.sim.config import LinkConfig
from tokencake.traces.schema import LLMNode, OutputOf, Piece, PromptOf, ToolNode

FAST = LinkConfig(1.0, 1.0)


def upstream(mode="agent", **params):
    return TokencakeUpstream(mode=mode, **params)


@pytest.fixture
def order_of(play, row):
    """Nodes by the time of their admission."""

    def admitted(result):
        columns = result.calls.columns
        return [name for _, name in sorted(zip(columns["admitted_s"], columns["call"], strict=True))]

    return admitted


# -- commitments ---------------------------------------------------------------------------------


@pytest.fixture
def growing(program, call):
    """Two calls that fit when they start (5 blocks each of 20) and not when they end (12 blocks each)."""
    return [program(f"p{i}", call(f"c{i}", 20, 28, max_tokens=28), at_s=i / 1e4) for i in range(2)]


def test_commitments_prevent_preemption(play, growing):
    """Stock vLLM admits both and has to preempt one; what is committed to the first is never given away."""
    assert play(growing, Policy()).summary["preemptions"] > 0
    assert play(growing, upstream()).summary["preemptions"] == 0


def test_commitments_cost_concurrency_where_limits_are_not_reached(play, program, call):
    """Calls that end long before their declared limit share memory in stock vLLM; commitments make one wait."""
    short = [program(f"p{i}", call(f"c{i}", 20, 4, max_tokens=40), at_s=i / 1e4) for i in range(2)]
    assert play(short, upstream()).summary["makespan_s"] > play(short, Policy()).summary["makespan_s"]


@pytest.mark.parametrize(("commit", "preempts"), [("all", False), ("progress", True), ("reclaim", True)])
def test_weaker_commitments_admit_more_and_may_preempt(play, growing, commit, preempts):
    result = play(growing, upstream(commit=commit))
    assert (result.summary["preemptions"] > 0) is preempts
    assert result.summary["calls"] == 2


def test_reclaim_promises_a_preempted_call_all_it_needs(play, growing):
    """It is preempted once and then waits until its whole output is free."""
    columns = play(growing, upstream(commit="reclaim")).calls.columns
    assert sorted(columns["preemptions"]) == [0, 1]


def test_a_limit_beyond_memory_is_admitted_when_nothing_else_is(play, program, call):
    """A commitment that can never be met must not keep a call out for ever."""
    result = play([program("p", call("c", 40, 4, max_tokens=4000))], upstream())
    assert result.summary["calls"] == 1


def test_an_undeclared_limit_is_what_the_type_has_produced(play, program, call):
    """After one call of 40 outputs, two more are not expected to fit together."""
    first = program("p", call("a", 8, 40))
    twins = [program(f"q{i}", call(f"b{i}", 8, 40), at_s=0.1 + i / 1e4) for i in range(2)]
    result = play([first, *twins], upstream(), gpu_blocks=20)
    assert result.summary["preemptions"] == 0
    assert play([first, *twins], Policy(), gpu_blocks=20).summary["preemptions"] > 0


# -- order -----------------------------------------------------------------------------------------


def test_nobody_is_blocked_by_the_head_of_the_queue(play, program, call, row):
    """Twelve of twenty blocks run; the next call needs ten, the last one four: stock vLLM stops at the first."""
    programs = [
        program("a", call("long", 44, 4, max_tokens=4)),
        program("b", call("big", 36, 4, max_tokens=4, importance=5.0), at_s=0.0001),
        program("c", call("small", 12, 4, max_tokens=4), at_s=0.0002),
    ]
    done = {name: row(play(programs, policy).calls, "small")["finish_s"] for name, policy in
            (("vllm", Policy()), ("agent", upstream()))}  # fmt: skip
    assert done["agent"] < done["vllm"]


def waiting_pair(program, call, first, second):
    """A call that fills memory, and two that wait for it."""
    return [
        program("a", call("full", 72, 8, max_tokens=8)),
        program("b", call("first", 40, 4, max_tokens=4, **first), at_s=0.0001),
        program("c", call("second", 40, 4, max_tokens=4, **second), at_s=0.0002),
    ]


def test_important_calls_go_first(play, program, call, order_of):
    programs = waiting_pair(program, call, {"importance": 1.0}, {"importance": 2.0})
    assert order_of(play(programs, Policy())) == ["full", "first", "second"]
    assert order_of(play(programs, upstream())) == ["full", "second", "first"]


def test_waiting_ages(play, program, call, order_of):
    """Eight points a second and more: after long enough, the older call goes first."""
    full = program("a", call("full", 40, 40, max_tokens=40))
    old = program("b", call("first", 72, 4, max_tokens=4, importance=1.0), at_s=0.0001)
    new = program("c", call("second", 72, 4, max_tokens=4, importance=1.001), at_s=0.039)
    assert order_of(play([full, old, new], upstream())) == ["full", "first", "second"]


def test_a_join_group_shares_its_greatest_score(play, program, order_of):
    """The join waits for both branches, so the unimportant one goes before a call of medium importance."""

    def node(name, importance, group=""):
        labels = {"depth": 1, "join_group": group}
        return LLMNode(name, (), "x", "x", (Piece(name, 40),), 4, max_tokens=4, importance=importance, labels=labels)

    full = program("a", LLMNode("full", (), "x", "x", (Piece("full", 80),), 4, max_tokens=4))
    join = program("b", node("strong", 9, "join"), node("weak", 0, "join"), at_s=0.0001)
    other = program("c", node("medium", 5), at_s=0.0002)
    programs = [full, join, other]
    settings = {"gpu_blocks": 22}
    assert order_of(play(programs, upstream(), **settings))[-1] == "medium"
    without = upstream(inherit_join_priority=False)
    assert order_of(play(programs, without, **settings))[-1] == "weak"


def test_affinity_prefers_a_prefix_that_is_held(play, program, call, order_of):
    """Six blocks are uncommitted: five for a call that scores a little more, or two for one that shares ten."""
    programs = [
        program("a", call("holder", 40, 40, content="common", max_tokens=40)),
        program("b", call("other", 16, 4, importance=1.0, max_tokens=4), at_s=0.0001),
        program("c", call("mate", 44, 4, content="common", max_tokens=4), at_s=0.0002),
    ]
    assert order_of(play(programs, upstream(), gpu_blocks=26)) == ["holder", "mate", "other"]
    plain = upstream(cache_affinity_score_band=0)
    assert order_of(play(programs, plain, gpu_blocks=26)) == ["holder", "other", "mate"]


def test_the_prefill_cap_holds_while_something_decodes(play, program, call, row):
    """A cap of 8 tokens a step: a prompt of 40 takes five steps beside a decoding call, one without a cap."""
    programs = [program("a", call("d", 4, 30, max_tokens=30)), program("b", call("p", 40, 1, max_tokens=1), at_s=0.01)]
    times = [row(play(programs, upstream(decode_prefill_token_budget=cap)).calls, "p")["prefill_s"] for cap in (0, 8)]
    assert times == pytest.approx([0.001, 0.005])


# -- reservations -------------------------------------------------------------------------------------


def test_reservations_favour_the_critical_type_and_lend_what_is_idle(play, program, call, row):
    """With half of memory reserved for the important type, an unimportant call borrows only if nobody of it waits."""
    rule = {"reserve_ratio_min": 0.5, "reserve_ratio_max": 0.5, "critical_ratio": 0.5, "partition_period": 1}
    vip = {"kind": "vip", "importance": 5.0, "max_tokens": 4}
    low = {"kind": "low", "max_tokens": 4}
    alone = [program(f"p{i}", call(f"low{i}", 20, 4, **low), at_s=i / 1e4) for i in range(3)]
    lent = play(alone, upstream(**rule))
    assert lent.summary["queue_s"]["max"] < 0.002  # 18 blocks: all three at once, reserve or not
    both = [program("v", call("vip", 20, 4, **vip)), *alone]
    assert play(both, upstream(**rule)).summary["calls"] == 4


@pytest.mark.parametrize("jumps", [True, False])
def test_every_denied_attempt_is_a_deferral(play, program, call, row, jumps):
    """A call that memory keeps out is tried, and denied, in every step until it starts; its start takes one back."""
    policy = upstream()
    full = program("a", call("full", 60, 19, max_tokens=19, kind="full"))
    late = program("b", call("late", 40, 4, max_tokens=4, kind="late"), at_s=0.0001)
    calls = play([full, late], policy, jumps=jumps).calls
    waited = row(calls, "late")["admitted_s"] - row(calls, "full")["admitted_s"]
    assert waited == pytest.approx(0.019)  # steps of a millisecond, the first one without it
    assert policy.scheduling.denied == {"capacity": 18, "reservation": 0}
    assert policy.scheduling.types.of("late").deferrals == 17
    assert policy.scheduling.types.of("full").deferrals == 0


# -- victims ----------------------------------------------------------------------------------------------


def test_the_cheapest_low_score_is_preempted(play, program, call, row):
    """Three calls outgrow memory. Stock vLLM preempts the last one; here the one with the least to compute again."""
    programs = [
        program("a", call("long", 30, 30, max_tokens=30)),
        program("b", call("short", 9, 40, max_tokens=40), at_s=0.0001),
        program("c", call("middle", 22, 30, max_tokens=30), at_s=0.0002),
    ]
    policy = upstream(commit="progress", reserve_generation_tokens=False)
    for chosen, most, least in ((policy, "short", "middle"), (Policy(), "middle", "short")):
        calls = play(programs, chosen).calls
        assert row(calls, most)["preemptions"] > row(calls, least)["preemptions"]


# -- preservation -------------------------------------------------------------------------------------------


@pytest.fixture
def turn_and(program):
    """A call, a tool, and a call that continues it; others wait for memory meanwhile and overwrite it."""

    def make(tool_s, flood=True, eligible=True):
        labels = {"depth": 1, "offload_eligible": eligible, "reusable_prefix": eligible}
        first = LLMNode("first", (), "a", "a", (Piece("first", 40),), 2, max_tokens=2, labels=labels)
        tool = ToolNode("tool", ("first",), "web", tool_s, tool_s)
        prompt = (PromptOf("first"), OutputOf("first"), Piece("more", 8))
        second = LLMNode("second", ("tool",), "a", "a", prompt, 1, max_tokens=1)
        programs = [program("p", first, tool, second)]
        if flood:
            for i in range(6):
                node = LLMNode(f"flood{i}", (), "b", "b", (Piece(f"flood{i}", 60),), 8, max_tokens=8)
                programs.append(program(f"f{i}", node, at_s=0.0005 + i / 1e4))
        return programs

    return make


@pytest.mark.parametrize("mode", ["offload", "agent_offload"])
def test_preservation_brings_back_what_is_overwritten(play, row, turn_and, mode):
    programs = turn_and(1.0)
    lost = row(play(programs, upstream("agent"), link=FAST).calls, "second")
    kept = row(play(programs, upstream(mode), link=FAST).calls, "second")
    assert (lost["gpu_hit_tokens"], lost["cpu_hit_tokens"]) == (0, 0)
    assert kept["cpu_hit_tokens"] == 40


def test_nothing_is_copied_while_nobody_waits(play, turn_and):
    """An ample cache is found without a copy, and copying it would help nobody."""
    result = play(turn_and(1.0, flood=False), upstream(), link=FAST)
    assert result.summary["d2h_bytes"] == 0


@pytest.mark.parametrize(("tool_s", "eligible"), [(0.05, True), (1.0, False)])
def test_nothing_is_copied_for_a_short_tool_or_without_leave(play, turn_and, tool_s, eligible):
    """A tool must leave time for both copies and 50 ms more; and the application must allow it."""
    result = play(turn_and(tool_s, eligible=eligible), upstream("offload"), link=FAST)
    assert result.summary["d2h_bytes"] == 0


def test_a_copy_holds_no_memory(play, turn_and):
    """Preservation takes no block: usage and admissions stay what they are without it, until the return."""
    programs = turn_and(1.0)
    free = LinkConfig(free=True)
    copied, stock = (play(programs, policy, link=free) for policy in (upstream("offload"), Policy()))
    assert copied.summary["d2h_bytes"] > 0
    early = [sorted(at for at in run.calls.columns["admitted_s"] if at < 0.9) for run in (copied, stock)]
    assert early[0] == early[1]


def test_durations_are_learned(play, program):
    """Tools that last 1 s are declared with 50 ms: no copy at first; half of both allows one from then on."""
    labels = {"depth": 1, "offload_eligible": True, "reusable_prefix": True}

    def turns(name, count):
        nodes = []
        for i in range(count):
            before = (f"tool{i - 1}",) if i else ()
            node = LLMNode(f"call{i}", before, "a", "a", (Piece(name, 40),), 2, max_tokens=2, labels=labels)
            nodes += [node, ToolNode(f"tool{i}", (node.id,), "web", 1.0, 0.05)]
        return nodes

    floods = []
    for n in range(24):
        node = LLMNode("f", (), "b", "b", (Piece(f"f{n}", 60),), 8, max_tokens=8)
        floods.append(program(f"f{n}", node, at_s=0.0005 + 1.004 * (n // 8) + 0.0001 * (n % 8)))
    chain = program("p", *turns("common", 3))
    result = play(sorted([chain, *floods], key=lambda p: p.arrival_s), upstream("offload"), link=FAST)
    columns = result.transfers.columns
    copied = [call for call, way in zip(columns["call"], columns["direction"], strict=True) if way == "d2h"]
    assert copied == ["call1"]  # nothing follows call2


# -- modes -----------------------------------------------------------------------------------------------------


def test_base_is_stock(play, turn_and):
    programs = turn_and(1.0)
    base, stock = play(programs, upstream("base")), play(programs, Policy())
    assert base.calls.columns == stock.calls.columns


def test_ample_memory_changes_nothing_but_order(play, turn_and):
    programs = turn_and(1.0)
    ample = {"gpu_blocks": 2000}
    columns = ("call", "admitted_s", "finish_s", "gpu_hit_tokens", "preemptions")
    results = [play(programs, policy, **ample).calls.columns for policy in (Policy(), upstream("agent_offload"))]
    rows = [sorted(zip(*(columns_of[c] for c in columns), strict=True)) for columns_of in results]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("params", "complaint"),
    [
        ({"critical_ratio": 0.0}, "critical_ratio must be > 0"),
        ({"reserve_ratio_min": 0.5}, "reserve_ratio_min <= reserve_ratio_max"),
        ({"gpu_usage_low": 0.75}, "gpu_usage_low < gpu_usage_high"),
        ({"partition_period": 0}, "partition_period must be >= 1"),
        ({"mode": "both"}, "mode"),
    ],
)
def test_bad_parameters(params, complaint):
    with pytest.raises(registry.PolicyError, match=complaint):
        registry.create("tokencake-upstream", params)
