"""Hand-made cases: steps of one millisecond, blocks of four tokens, four milliseconds a block on the link."""

import pytest

from tokencake.policies.api import EventKind, Policy
from tokencake.sim.config import EngineConfig, LinkConfig, SimConfig
from tokencake.sim.latency.linear import LinearCoefficients, LinearLatency
from tokencake.sim.run import simulate
from tokencake.traces.schema import LLMNode, OutputOf, Piece, Program, PromptOf, ToolNode


class Scripted(Policy):
    """A policy that remembers what it was told; ``script`` maps (trigger name, node) to actions."""

    def __init__(self, script=None):
        self.script = script or {}
        self.events = []

    def observe(self, event, view):
        self.events.append(event)

    def place(self, view, trigger, subject):
        node = subject.call.node if subject is not None else ""
        answer = self.script.get((trigger.name, node), ())
        return answer(view, subject) if callable(answer) else answer

    def refusals(self):
        return [(type(e.action).__name__, e.reason) for e in self.events if e.kind is EventKind.ACTION_REFUSED]

    def kinds(self):
        return [e.kind.name for e in self.events]


@pytest.fixture
def scripted():
    return Scripted


@pytest.fixture
def play():
    """Simulate: play(programs, policy, gpu_blocks=..., ...) -> result."""

    def run(programs, policy, *, link=None, latency=None, **engine):
        settings = {"gpu_blocks": 20, "block_size": 4, "cpu_blocks": 40, "max_num_batched_tokens": 64} | engine
        config = SimConfig(
            EngineConfig(**settings),
            LinearLatency(latency or LinearCoefficients(1000)),
            kv_bytes_per_token=1000,
            link=link or LinkConfig(0.001, 0.001),
            log_decisions=True,
        )
        return simulate(programs, config, policy)

    return run


@pytest.fixture
def call():
    """One LLM node with a prompt of its own: call("a", 16, output=4)."""

    def make(name, prompt, output=1, *, content=None, after=(), kind="agent", **more):
        return LLMNode(name, after, kind, kind, (Piece(content or name, prompt),), output, **more)

    return make


@pytest.fixture
def program():
    """One program of nodes: program("p", call(...), at_s=0.0)."""
    return lambda name, *nodes, at_s=0.0: Program(name, "app", at_s, nodes)


@pytest.fixture
def turn(call):
    """A call, a tool, and a call that continues the first: turn("a", 15, output=2, tool_s=0.1)."""

    def make(prompt=15, output=2, tool_s=0.1, more=8, estimate_s=None, content="first"):
        return (
            call("first", prompt, output, content=content),
            ToolNode("tool", ("first",), "web", tool_s, estimate_s),
            LLMNode(
                "second", ("tool",), "agent", "agent", (PromptOf("first"), OutputOf("first"), Piece("more", more)), 1
            ),
        )

    return make


@pytest.fixture
def session():
    """A conversation with a tool after every call but the last: session("p", turns=5, tool_s=0.1)."""

    def make(name, *, turns=5, prompt=200, more=40, output=4, tool_s=0.1, at_s=0.0):
        nodes = [LLMNode("c0", (), "agent", "agent", (Piece(name, prompt),), output)]
        for i in range(1, turns):
            last = f"c{i - 1}"
            nodes.append(ToolNode(f"t{i}", (last,), "web", tool_s, tool_s))
            prompt = (PromptOf(last), OutputOf(last), Piece(f"{name}/{i}", more))
            nodes.append(LLMNode(f"c{i}", (f"t{i}",), "agent", "agent", prompt, output))
        return Program(name, "app", at_s, tuple(nodes))

    return make


@pytest.fixture
def row():
    """One row of a table by the node, call or program that it is about: row(table, "a" or "p/a") -> dict."""

    def find(table, name, column="call"):
        columns = table.columns
        if "/" in name:
            at = list(zip(columns["program"], columns["call"], strict=True)).index(tuple(name.split("/")))
        else:
            at = columns[column].index(name)
        return {key: values[at] for key, values in columns.items()}

    return find
