"""srpf, critical-path, belady and clairvoyant: what knowing more is worth, and where it is worth nothing."""

import pytest

from tokencake.policies.belady import Belady
from tokencake.policies.clairvoyant import Clairvoyant
from tokencake.policies.critical_path import CriticalPath
from tokencake.policies.graph import Remaining
from tokencake.policies.srpf import ShortestRemaining
from tokencake.policies.vllm import Vllm
from tokencake.policies.vllm_offload import VllmOffload
from tokencake.sim.config import LinkConfig
from tokencake.sim.latency.linear import LinearCoefficients


@pytest.fixture
def starts(play):
    """Calls in the order of their admission, one at a time."""

    def find(programs, policy):
        columns = play(programs, policy, max_num_seqs=1).calls.columns
        return sorted(columns["call"], key=lambda name: columns["admitted_s"][columns["call"].index(name)])

    return find


def test_srpf_prefers_what_is_nearly_done(starts, program, call):
    """'b1' came later, but its program has 5 outputs left and the other 30: mean completion gains."""
    busy = program("busy", call("x", 8, 10))
    first = program("first", call("a1", 8, 10), call("a2", 8, 20, after=("a1",)), at_s=0.001)
    second = program("second", call("b1", 8, 5), at_s=0.002)
    assert starts([busy, first, second], ShortestRemaining()) == ["x", "b1", "a1", "a2"]
    assert starts([busy, first, second], Vllm()) == ["x", "a1", "b1", "a2"]


@pytest.mark.parametrize("policy", [ShortestRemaining, CriticalPath])
def test_equal_work_is_first_come_first_served(play, program, call, policy):
    """Where all programs have the same left, knowing it orders nothing."""
    programs = [program(f"p{i}", call(f"c{i}", 8, 6), at_s=0.001 * i) for i in range(6)]
    known, plain = (play(programs, made(), max_num_seqs=1) for made in (policy, Vllm))
    assert known.calls.columns == plain.calls.columns


def test_the_critical_path_goes_first(play, program, call):
    """Of two branches the second is four times as long: started first, the program ends sooner."""
    branches = program(
        "p",
        call("short", 8, 10),
        call("long", 8, 10),
        call("long2", 8, 10, after=("long",)),
        call("long3", 8, 10, after=("long2",)),
        call("end", 8, 2, after=("short", "long3")),
    )
    other = program("q", call("q", 8, 5), at_s=0.001)
    path, plain = (play([branches, other], made(), max_num_seqs=1) for made in (CriticalPath, Vllm))
    finish = [dict(zip(r.calls.columns["call"], r.calls.columns["finish_s"], strict=True)) for r in (path, plain)]
    assert finish[0]["long"] < finish[0]["short"]
    assert finish[1]["short"] < finish[1]["long"]
    assert finish[0]["end"] <= finish[1]["end"]


class Graph:
    id = "p"
    nodes = {"a": ("b", "c"), "b": ("d",), "c": (), "d": ()}  # noqa: RUF012

    def successors(self, node):
        return self.nodes[node]


def test_remaining_paths():
    from tokencake.policies.api import Event, EventKind

    costs = {"a": 1.0, "b": 2.0, "c": 9.0, "d": 4.0}
    remaining = Remaining(lambda view, program, node: costs[node])
    assert [remaining.path(None, Graph(), node) for node in "abcd"] == [10.0, 6.0, 9.0, 4.0]
    lefts = [remaining.left(None, Graph())]
    for node in "acb":
        remaining.observe(Event(EventKind.CALL_FINISHED, 0.0, program="p", call=f"p/{node}"))
        lefts.append(remaining.left(None, Graph()))
    assert lefts == [10.0, 9.0, 6.0, 4.0]


@pytest.fixture
def soon_and_late(play, program, turn, call, row):
    """'soon' stalls first and returns first; 'late' stalls second. A flood needs the blocks of one of them."""

    def run(policy, soon_s=0.1, late_s=10.0, **engine):
        programs = [
            program("soon", *turn(15, tool_s=soon_s, content="s")),
            program("late", *turn(15, tool_s=late_s, content="l"), at_s=0.01),
            program("flood", call("flood", 64), at_s=0.05),
        ]
        result = play(programs, policy, **{"cpu_blocks": 0} | engine)
        return [row(result.calls, f"{name}/second")["gpu_hit_tokens"] for name in ("soon", "late")]

    return run


def test_belady_keeps_what_returns_first(soon_and_late):
    """LRU gives up the chain that is needed in 50 ms for one that is needed in ten seconds."""
    assert soon_and_late(Belady())[0] == 16
    assert soon_and_late(Vllm())[0] == 0


def test_belady_is_lru_where_lru_is_right(soon_and_late):
    """The least recently used chain is also the one that returns last."""
    assert soon_and_late(Belady(), soon_s=10.0, late_s=0.2) == soon_and_late(Vllm(), soon_s=10.0, late_s=0.2)


def test_belady_spares_what_is_first_in_the_queue(play, program, turn, call, row):
    """Both have returned and wait: the one in front is served first, although its KV was released first."""
    programs = [
        program("front", *turn(15, tool_s=0.01, content="f")),
        program("behind", *turn(15, tool_s=0.01, content="b"), at_s=0.001),
        program("busy", call("busy", 44, 40), at_s=0.002),
    ]

    def hits(policy):
        result = play(programs, policy, gpu_blocks=25, cpu_blocks=0, max_num_seqs=1)
        return [row(result.calls, f"{name}/second")["gpu_hit_tokens"] for name in ("front", "behind")]

    assert hits(Belady())[0] == 16
    assert hits(Vllm())[0] < 16


def test_the_weighted_rule_spares_what_costs_most(play, program, turn, call, row):
    """The large chain returns a little later than the small one, and costs four times as much to compute again."""
    programs = [
        program("small", *turn(15, tool_s=0.5, content="s")),
        program("large", *turn(60, tool_s=0.6, content="l"), at_s=0.03),
        program("flood", call("flood", 60), at_s=0.3),
    ]
    costly = LinearCoefficients(1000, per_prefill_token_us=1000)

    def lost(weight):
        result = play(programs, Belady(weight=weight), gpu_blocks=30, cpu_blocks=0, latency=costly)
        return [row(result.calls, f"{n}/second")["gpu_hit_tokens"] for n in ("small", "large")]

    small, large = lost("none")
    assert small == 16 and large < 60
    small, large = lost("cost")
    assert small == 0 and large > 40


@pytest.fixture
def fetched(play, program, turn, call, row):
    """A tool of half a second, a flood in between, and a link that takes 16 ms for the chain."""

    def run(policy, **engine):
        programs = [program("p", *turn(16, tool_s=0.5)), program("flood", call("flood", 79), at_s=0.1)]
        result = play(programs, policy, **{"link": LinkConfig(0.001, 0.001)} | engine)
        second = row(result.calls, "second")
        return second, [
            (start, end)
            for cause, start, end in zip(
                *(result.transfers.columns[key] for key in ("cause", "start_s", "finish_s")), strict=True
            )
            if cause == "prefetch"
        ]

    return run


def test_a_clairvoyant_has_it_just_in_time(fetched):
    """The copy ends when the tool does, and the call starts at once; vllm-offload starts to load then."""
    second, ((start, end),) = fetched(Clairvoyant())
    assert second["gpu_hit_tokens"] == 16
    assert start == pytest.approx(0.502 - 0.016, abs=1e-3)
    assert end == pytest.approx(0.502, abs=2e-3)
    late, _ = fetched(VllmOffload(prompt_only=False))
    assert late["cpu_hit_tokens"] == 16
    assert second["first_token_s"] < late["first_token_s"] - 0.01


def test_a_clairvoyant_fetches_nothing_that_is_there(play, program, turn):
    """Nobody overwrites the chain: knowing the return is worth nothing, and no byte comes back."""
    result = play([program("p", *turn(16, tool_s=0.5))], Clairvoyant())
    assert result.summary["h2d_bytes"] == 0
