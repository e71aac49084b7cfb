"""tokencake (paper): each mechanism on a trace where it must win, and on one where it must not."""

from dataclasses import replace

import pytest

from tokencake.policies import registry
from tokencake.policies.api import EventKind, Policy
from tokencake.policies.tokencake import Tokencake
from tokencake.policies.tokencake_prediction import Prediction
from tokencake.sim.config import LinkConfig
from tokencake.traces.generators.synthetic import Demo
from tokencake.traces.schema import LLMNode, OutputOf, Piece, PromptOf, ToolNode

FAST = LinkConfig(1.0, 1.0)
EAGER = {"min_gpu_usage": 0.0, "score_threshold": -10.0, "buffer_s": 0.002, "slices": 2}
"""The gate without thresholds: what is left is the tool's duration and who could use the memory."""


@pytest.fixture
def stalled(program):
    """32 blocks: a call of twelve whose tool runs, one that decodes all the time, one that wants twenty meanwhile."""

    def make(tool_s=0.06, estimate_s=None, other=True):
        first = LLMNode("first", (), "a", "a", (Piece("first", 45),), 3, max_tokens=3)
        tool = ToolNode("tool", ("first",), "web", tool_s, tool_s if estimate_s is None else estimate_s)
        prompt = (PromptOf("first"), OutputOf("first"), Piece("more", 4))
        second = LLMNode("second", ("tool",), "a", "a", prompt, 2, max_tokens=2)
        runner = LLMNode("runner", (), "c", "c", (Piece("runner", 4),), 76, max_tokens=76)
        programs = [program("p", first, tool, second), program("r", runner)]
        if other:
            for i in range(2):
                node = LLMNode(f"other{i}", (), "b", "b", (Piece(f"other{i}", 77),), 3, max_tokens=3)
                programs.append(program(f"q{i}", node, at_s=0.0005 + i / 1e4))
        return programs

    return make


@pytest.fixture
def decided(play):
    """Actions in order, by kind: decided(programs, policy) -> [(time, kind), ...]."""

    def run(programs, policy, **settings):
        settings = {"link": FAST, "gpu_blocks": 32, "max_num_batched_tokens": 200} | settings
        result = play(programs, policy, **settings)
        columns = result.decisions.columns
        rows = zip(columns["time_s"], columns["hook"], columns["decision"], columns["outcome"], strict=True)
        return result, [(at, text.split("(")[0]) for at, hook, text, out in rows if "place" in hook and out == "done"]

    return run


def kinds(decisions):
    return [kind for _, kind in decisions]


# -- Temporal Scheduler ---------------------------------------------------------------------------


def test_a_stalled_call_holds_its_memory_until_the_gate_opens(row, stalled, decided):
    """The others wait for the return where the gate stays shut, and for one copy where it opens."""
    shut, acts = decided(stalled(), Tokencake(score_threshold=100.0, spatial=False))
    assert "Offload" not in kinds(acts)
    assert row(shut.calls, "other0")["admitted_s"] > 0.06
    assert shut.summary["stalled_kv_gb_s"] > 0
    opened, acts = decided(stalled(), Tokencake(spatial=False, **EAGER))
    assert "Offload" in kinds(acts)
    assert row(opened.calls, "other0")["admitted_s"] < 0.01


def test_the_kv_is_back_when_the_tool_ends(row, stalled, decided):
    """Predicted and reserved bit by bit; the returning call finds all of it on the GPU and loads nothing."""
    result, acts = decided(stalled(), Tokencake(spatial=False, **EAGER))
    second = row(result.calls, "second")
    assert (second["gpu_hit_tokens"], second["cpu_hit_tokens"]) == (44, 0)
    assert second["admitted_s"] == pytest.approx(0.063, abs=0.002)
    holds = [at for at, kind in acts if kind == "Hold"]
    prefetch = next(at for at, kind in acts if kind == "Prefetch")
    assert len(holds) == 2
    assert holds[-1] <= prefetch < 0.063


def test_without_prediction_the_returning_call_loads(row, stalled, decided):
    result, acts = decided(stalled(), Tokencake(prediction=False, spatial=False, **EAGER))
    assert "Prefetch" not in kinds(acts)
    assert row(result.calls, "second")["cpu_hit_tokens"] > 0


def test_an_early_return_is_loaded_on_demand(row, stalled, decided):
    """The tool ends in half the predicted time: nothing was on its way, the call loads its KV itself."""
    result, acts = decided(stalled(tool_s=0.03, estimate_s=0.06), Tokencake(spatial=False, **EAGER))
    assert "Prefetch" not in kinds(acts)
    assert row(result.calls, "second")["cpu_hit_tokens"] > 0


@pytest.mark.parametrize(
    ("tool_s", "other", "reason"),
    [(0.06, True, "both copies take longer"), (0.06, False, "nobody waits for memory")],
)
def test_the_gate_stays_shut(stalled, decided, tool_s, other, reason):
    link = LinkConfig(0.001, 0.001) if other else FAST  # 44 ms for eleven blocks, each way
    _, acts = decided(stalled(tool_s, other=other), Tokencake(spatial=False, **EAGER), link=link)
    assert "Offload" not in kinds(acts), reason


def test_without_the_gate_everything_goes(stalled, decided):
    _, acts = decided(stalled(other=False), Tokencake(gate=False, spatial=False))
    assert "Offload" in kinds(acts)


def test_unbuffered_cpu_blocks_cost_an_allocation_first(stalled, decided):
    """Eleven blocks at a millisecond each before the copy starts."""
    _, buffered = decided(stalled(0.07), Tokencake(spatial=False, **EAGER))
    _, bare = decided(stalled(0.07), Tokencake(spatial=False, cpu_buffering=False, **EAGER))
    start = [next(at for at, kind in acts if kind == "Offload") for acts in (buffered, bare)]
    assert start[1] - start[0] == pytest.approx(0.011, abs=0.0011)


def test_released_kv_is_copied_but_never_held(stalled, decided):
    result, acts = decided(stalled(), Tokencake(hold="release", gate=False, spatial=False, prediction=False))
    assert "Keep" not in kinds(acts)
    assert "Offload" in kinds(acts)
    assert result.summary["stalled_kv_gb_s"] == 0
    assert result.summary["d2h_bytes"] > 0


def test_a_join_is_no_stalled_request(program, decided):
    """Two branches meet: neither call is continued by its own tool alone, so neither keeps its KV."""
    nodes = []
    for branch in ("x", "y"):
        nodes.append(LLMNode(branch, (), "a", "a", (Piece(branch, 20),), 2, max_tokens=2))
        nodes.append(ToolNode(f"{branch}-tool", (branch,), "web", 0.1, 0.1))
    nodes.append(LLMNode("join", ("x-tool", "y-tool"), "a", "a", (Piece("join", 8),), 1, max_tokens=1))
    _, acts = decided([program("p", *nodes)], Tokencake(spatial=False))
    assert "Keep" not in kinds(acts)


def test_running_calls_do_not_run_out_while_kv_is_kept(program, call, stalled, decided):
    """Growing calls would run out of blocks beside kept KV of a stalled one; it is given up before."""
    growing = program("g", call("grow", 4, 60, max_tokens=60), at_s=0.0005)
    result, acts = decided(
        [*stalled(other=False), growing], Tokencake(score_threshold=100.0, spatial=False), gpu_blocks=36
    )
    assert result.summary["preemptions"] == 0
    assert "Unpin" in kinds(acts)


def test_prediction():
    """Eq. 1: half estimate, half history; either alone; what graphs declare; the default."""
    prediction = Prediction(alpha=0.25, ewma=0.5, default_s=1.0)
    kind = ("agent", "web")
    assert prediction.expect(kind, None) == 1.0
    assert prediction.expect(kind, 8.0) == 8.0
    prediction.learn(kind, 2.0)
    prediction.learn(kind, 4.0)  # history 3
    assert prediction.expect(kind, None) == 3.0
    assert prediction.expect(kind, 8.0) == pytest.approx(0.25 * 8 + 0.75 * 3)


def test_the_graph_says_how_long_an_undeclared_tool_takes(stalled, decided, program):
    """Nothing is known of the first tool: it counts as short, and stays, unless it is declared further on."""
    policy = {"spatial": False, "default_tool_s": 0.001, **EAGER}
    first, *others = stalled()
    nodes = [replace(n, estimate_s=None) if isinstance(n, ToolNode) else n for n in first.nodes]
    _, acts = decided([program("p", *nodes), *others], Tokencake(**policy))
    assert "Offload" not in kinds(acts)
    again = ToolNode("again", ("second",), "web", 0.06, 0.06)
    _, acts = decided([program("p", *nodes, again), *others], Tokencake(**policy))
    assert "Offload" in kinds(acts)


# -- Spatial Scheduler ------------------------------------------------------------------------------


def test_a_call_that_others_wait_for_goes_first(program, call, row, play):
    """Equal calls arrive together; the one with three followers at depth 1 outranks the one with none."""
    full = program("a", call("full", 72, 8, max_tokens=8))
    leaf = program("b", call("leaf", 60, 2, max_tokens=2), at_s=0.0001)
    followers = [call(f"next{i}", 4, after=("root",)) for i in range(3)]
    root = program("c", call("root", 60, 2, max_tokens=2), *followers, at_s=0.0001)
    order = {}
    for name, policy in (("vllm", Policy()), ("spatial", Tokencake(temporal=False))):
        calls = play([full, leaf, root], policy).calls
        order[name] = row(calls, "root")["admitted_s"] < row(calls, "leaf")["admitted_s"]
    assert order == {"vllm": False, "spatial": True}


def test_reserves_keep_uncritical_calls_out_and_are_lent_when_idle(program, call, decided, row):
    """Half of memory is the critical type's while one of it waits; the uncritical call waits beside free blocks."""
    rule = {"reserve_ratio_min": 0.5, "reserve_ratio_max": 0.5, "critical_ratio": 0.5, "partition_period": 1}
    high = call("high", 72, 20, max_tokens=20, kind="high")
    wide = [call(f"w{i}", 4, after=("high",), kind="high") for i in range(3)]
    low = [program(f"l{i}", call(f"low{i}", 30, 4, max_tokens=4, kind="low"), at_s=0.0002 + i / 1e4) for i in range(2)]
    programs = [program("h", high, *wide), program("h2", call("high2", 72, 4, max_tokens=4, kind="high")), *low]
    result, acts = decided(programs, Tokencake(temporal=False, **rule), gpu_blocks=40)
    assert "Reserve" in kinds(acts)
    assert result.summary["calls"] == 7


def test_victims_are_uncritical_first(play, program, call, row):
    """Memory runs out: stock vLLM preempts the last call, TokenCake the one whose type has no reserve."""
    followers = [call(f"n{i}", 4, after=("vip",), kind="vip") for i in range(4)]
    programs = [
        program("a", call("low", 20, 50, max_tokens=50, kind="low")),
        program("b", call("vip", 20, 50, max_tokens=50, kind="vip"), *followers, at_s=0.0005),
    ]
    policy = Tokencake(temporal=False, critical_ratio=0.5, partition_period=1, reserve_ratio_min=0.05)
    calls = play(programs, policy).calls
    assert row(calls, "low")["preemptions"] > row(calls, "vip")["preemptions"]
    stock = play(programs, Policy()).calls
    assert row(stock, "vip")["preemptions"] > row(stock, "low")["preemptions"]


# -- as a whole -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exact():
    """Agents whose tools take exactly what is declared."""
    demo = Demo(qps=10.0, programs_count=6, rounds=2, system_tokens=60, task_tokens=120, output_tokens=40)
    programs = []
    for p in demo.programs():
        nodes = [
            ToolNode(n.id, n.after, n.tool, 0.25, 0.25, n.result_tokens, n.result_id) if isinstance(n, ToolNode) else n
            for n in p.nodes
        ]
        programs.append(type(p)(p.program, p.app, p.arrival_s, tuple(nodes), p.labels))
    return programs


@pytest.mark.parametrize("name", ["tokencake", "tokencake-upstream"])
def test_tools_without_variance_leave_nothing_to_an_oracle(play, exact, name):
    """With exact estimates the prediction is the truth, so knowing the truth changes nothing."""
    settings = {"gpu_blocks": 45, "block_size": 16, "cpu_blocks": 200, "max_num_batched_tokens": 512, "link": FAST}
    told, oracle = (play(exact, registry.create(name, params), **settings) for params in ({}, {"info": "oracle"}))
    if name == "tokencake":
        assert told.summary["d2h_bytes"] > 0
    assert told.calls.columns == oracle.calls.columns
    assert told.transfers.columns == oracle.transfers.columns


def test_ample_memory_changes_nothing_but_order(play, exact):
    settings = {"gpu_blocks": 20_000, "block_size": 16, "cpu_blocks": 200, "max_num_batched_tokens": 512}
    columns = ("program", "call", "gpu_hit_tokens", "cpu_hit_tokens", "preemptions")
    rows = []
    for policy in (Policy(), Tokencake()):
        table = play(exact, policy, **settings).calls.columns
        rows.append(sorted(zip(*(table[name] for name in columns), strict=True)))
    assert rows[0] == rows[1]


def test_lifted_reserves_are_not_taken_again_at_once(program, call, play):
    """A reserve that keeps the only call out is lifted by the host, and stays lifted until something starts."""

    class Watches(Tokencake):
        lifted = 0

        def observe(self, event, view):
            self.lifted += event.kind is EventKind.RESERVES_LIFTED
            super().observe(event, view)

    policy = Watches(reserve_ratio_min=0.9, reserve_ratio_max=0.9, lend_idle=False, partition_period=1)
    programs = [program(f"p{i}", call(f"c{i}", 60, 4, max_tokens=4, kind=f"k{i}"), at_s=i / 1e4) for i in range(4)]
    assert play(programs, policy).summary["calls"] == 4


@pytest.mark.parametrize(
    ("params", "complaint"),
    [({"alpha": 1.5}, "alpha"), ({"slices": 0}, "slices"), ({"reserve_fraction": 0.0}, "reserve_fraction")],
)
def test_bad_parameters(params, complaint):
    with pytest.raises(registry.PolicyError, match=complaint):
        registry.create("tokencake", params)


def test_no_reserve_keeps_a_resuming_call_out(stalled, decided, row):
    """All memory is another type's reserve; the returning call, whose KV is kept, starts when its tool has ended."""
    rule = {"reserve_ratio_min": 0.9, "reserve_ratio_max": 0.9, "critical_ratio": 0.4, "lend_idle": False}
    result, _ = decided(stalled(), Tokencake(score_threshold=100.0, partition_period=1, **rule))
    assert row(result.calls, "second")["admitted_s"] == pytest.approx(0.063, abs=0.002)
