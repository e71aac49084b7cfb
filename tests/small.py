"""Programs and a host small enough to work out by hand."""

from tokencake.sim.config import EngineConfig, LinkConfig, SimConfig
from tokencake.sim.latency.linear import LinearCoefficients, LinearLatency
from tokencake.traces.schema import LLMNode, OutputOf, Piece, Program, PromptOf, ToolNode


def world(**engine):
    settings = {"gpu_blocks": 100, "block_size": 16, "max_num_batched_tokens": 256, "max_num_seqs": 8} | engine
    bounds = {key: settings.pop(key) for key in ("free_recompute",) if key in settings}
    latency = LinearLatency(LinearCoefficients(1000.0, 10.0, 0.0, 0.0, 5.0, 0.1))
    return SimConfig(EngineConfig(**settings), latency, 1000, link=LinkConfig(0.01, 0.01), **bounds)


def call(name, prompt, outputs, after=(), **more):
    return LLMNode(name, tuple(after), "a", more.pop("agent_type", "a"), tuple(prompt), outputs, **more)


def one(name, *nodes, at=0.0):
    return Program(name, "app", at, tuple(nodes))


def two_turns(name="p", tool_s=1.0):
    first = call("one", [Piece(name, 64)], 32)
    tool = ToolNode("tool", ("one",), "t", tool_s)
    return one(name, first, tool, call("two", [PromptOf("one"), OutputOf("one"), Piece("ask", 16)], 16, ["tool"]))
