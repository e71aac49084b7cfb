"""kvflow: steps to execution, eviction by them, and prefetch of what comes next."""

import pytest

from tokencake.policies.api import Event, EventKind
from tokencake.policies.graph import Frontier
from tokencake.policies.kvflow import KVFlow
from tokencake.policies.vllm_offload import VllmOffload
from tokencake.sim.config import LinkConfig
from tokencake.traces.schema import LLMNode, OutputOf, Piece, Program, PromptOf, ToolNode


def after(name, before, waits, more=8):
    """A call that continues the call ``before``, once ``waits`` have ended."""
    return LLMNode(name, waits, "agent", "agent", (PromptOf(before), OutputOf(before), Piece(name, more)), 1)


@pytest.fixture
def fork(call):
    """'near' continues after a tool; 'far' after a chain of two calls and a tool. 'far' was used last."""

    def make(tool_s=0.2):
        return (
            call("near", 15, 2),
            call("far", 15, 4),
            ToolNode("tool", ("near",), "web", tool_s),
            after("near2", "near", ("tool",)),
            call("mid", 4, 1, after=("near2",)),
            after("far2", "far", ("far", "mid")),
        )

    return make


class Graph:
    """A declared graph: node to what it waits for; tools begin with 't'."""

    id = "p"

    def __init__(self, **nodes):
        self.nodes = nodes

    def predecessors(self, node):
        return self.nodes[node]

    def tool(self, node):
        return node if node.startswith("t") else None


def test_steps_to_execution():
    graph = Graph(a=(), t1=("a",), b=("t1",), c=("b",), d=("a",), e=("c", "d"))
    frontier = Frontier()
    assert [frontier.steps(graph, n) for n in "abcde"] == [1, 2, 3, 2, 4]
    frontier.observe(Event(EventKind.CALL_QUEUED, 0.0, program="p", call="p/a"))
    assert [frontier.steps(graph, n) for n in "abcde"] == [0, 1, 2, 1, 3]
    frontier.observe(Event(EventKind.CALL_FINISHED, 0.0, program="p", call="p/a"))
    assert [frontier.steps(graph, n) for n in "bcde"] == [1, 2, 1, 3]
    frontier.observe(Event(EventKind.TOOL_FINISHED, 0.0, program="p", node="t1"))
    frontier.observe(Event(EventKind.CALL_QUEUED, 0.0, program="p", call="p/b"))
    assert [frontier.steps(graph, n) for n in "bcde"] == [0, 1, 1, 2]


def test_a_long_chain_of_calls_is_walked_without_recursion():
    nodes = {f"n{i}": (f"n{i - 1}",) if i else () for i in range(5000)}
    assert Frontier().steps(Graph(**nodes), "n4999") == 5000


@pytest.mark.parametrize(("policy", "near"), [(KVFlow, 12), (VllmOffload, 0)])
def test_what_is_needed_later_goes_first(play, program, fork, call, row, policy, near):
    """LRU gives up 'near', which ended first although it is needed first; steps to execution say 'far'."""
    flood = program("flood", call("flood", 67), at_s=0.05)
    result = play([program("p", *fork()), flood], policy(), cpu_blocks=0)
    assert row(result.calls, "near2")["gpu_hit_tokens"] == near


@pytest.mark.parametrize("policy", [KVFlow, VllmOffload])
def test_where_all_are_one_step_away_it_is_lru(play, program, turn, call, row, policy):
    """Independent conversations: the graph says nothing, and the least recently used chain is lost, as in LRU."""
    programs = [program(f"p{i}", *turn(15, tool_s=0.1, content=f"c{i}"), at_s=0.01 * i) for i in range(4)]
    programs.append(program("flood", call("flood", 32), at_s=0.05))
    result = play(programs, policy(), cpu_blocks=0)
    assert row(result.calls, "p0/second")["gpu_hit_tokens"] == 0


@pytest.mark.parametrize(("concurrency", "moved"), [(4, ["prefetch"]), (0, ["load"])])
def test_what_comes_next_is_fetched(play, program, call, row, concurrency, moved):
    """'far' is overwritten while a tool runs; when the tool's call has arrived, it is two steps away."""
    nodes = (
        call("far", 15, 2),
        ToolNode("wait", ("far",), "web", 0.1),
        call("mid", 4, 20, after=("wait",)),
        call("last", 4, 20, after=("mid",)),
        after("far2", "far", ("last",)),
    )
    flood = program("flood", call("flood", 78), at_s=0.05)
    result = play([Program("p", "app", 0.0, nodes), flood], KVFlow(concurrency=concurrency), link=LinkConfig(1, 1))
    columns = result.transfers.columns
    causes = [
        c for c, name in zip(columns["cause"], columns["call"], strict=True) if c != "store" and name[:3] == "far"
    ]
    assert causes == moved
    assert row(result.calls, "far2")["gpu_hit_tokens"] == (16 if concurrency else 0)
