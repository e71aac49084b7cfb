"""Small random worlds: traces with much shared content, and engines with little memory."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import strategies as st

from tokencake.policies import registry
from tokencake.sim.config import EngineConfig, LinkConfig, SimConfig, WorkloadConfig
from tokencake.sim.latency.linear import LinearCoefficients, LinearLatency
from tokencake.traces.schema import LLMNode, OutputOf, Piece, Program, PromptOf, ResultOf, ToolNode

CONTENTS = ("system", "task", "ask")
TYPES = ("planner", "coder")


class Stairs:
    """A latency model in pieces: each stretch of 50 context tokens has its own slope."""

    def __init__(self, width=50):
        self._width = width

    def fresh(self):
        return self

    def step_ps(self, prefill, decodes, decode_context):
        time = sum(3_000_000 * new + 1_000 * new * context for new, context in prefill)
        return 10**8 + time + self._decode(decodes, decode_context)

    def decode_cell(self, decodes, decode_context):
        end = (decode_context // self._width + 1) * self._width
        slope = (decode_context // self._width) % 3 * 1_000_001
        return self.step_ps((), decodes, decode_context), slope, end

    def prefill_ps(self, new, context):
        return self.step_ps(((new, context),), 0, 0)

    def decode_ps(self, decodes, decode_context):
        return self.step_ps((), decodes, decode_context)

    def note_jump(self, steps, decodes, decode_context):
        pass

    def outside(self) -> Mapping[str, int]:
        return {}

    def _decode(self, decodes, context):
        if not decodes:
            return 0
        slope = (context // self._width) % 3 * 1_000_001
        return 10**7 * decodes + (context // self._width) * 7_000_000 + slope * (context % self._width)


def latencies():
    """Step times: constant (so that events coincide), linear, or in pieces."""
    coefficients = LinearCoefficients(300, 20, 0.01, 7, 3, 0.9)
    return st.sampled_from(
        (LinearLatency(LinearCoefficients(1000)), LinearLatency(coefficients), Stairs(), Stairs(width=7))
    )


@st.composite
def engines(draw, *, block_size=None):
    """Engines whose memory runs out all the time."""
    size = block_size or draw(st.sampled_from((1, 2, 4, 8)))
    return EngineConfig(
        gpu_blocks=draw(st.integers(40 // size, 120 // size)),
        block_size=size,
        cpu_blocks=draw(st.sampled_from((0, 0, 64 // size, 2000 // size))),
        max_num_batched_tokens=draw(st.sampled_from((5, 17, 64, 1000))),
        max_num_seqs=draw(st.sampled_from((1, 2, 5, 100))),
        max_model_len=100,
        long_prefill_token_threshold=draw(st.sampled_from((0, 0, 7))),
        prefix_caching=draw(st.sampled_from((True, True, True, False))),
        reserve_full_isl=draw(st.booleans()),
        watermark=draw(st.sampled_from((0.0, 0.0, 0.1))),
        async_scheduling=draw(st.booleans()),
        version=draw(st.sampled_from(("0.32", "0.22"))),
    )


@st.composite
def configs(draw):
    """Everything about a run that is no policy."""
    return SimConfig(
        draw(engines()),
        draw(latencies()),
        kv_bytes_per_token=1000,
        link=draw(
            st.sampled_from(
                (
                    LinkConfig(0.01, 0.01, 5.0),
                    LinkConfig(0.0005, 0.001),
                    LinkConfig(1.0, 0.002, 100.0),
                    LinkConfig(1, 1, free=True),
                )
            )
        ),
        workload=WorkloadConfig(
            calls=draw(st.sampled_from(("dependent", "timed"))),
            client_delay_s=draw(st.sampled_from((0.0, 0.0, 0.002))),
            concurrency=draw(st.sampled_from((0, 0, 0, 2))),
        ),
        infinite_kv=draw(st.sampled_from((False,) * 9 + (True,))),
        free_recompute=draw(st.sampled_from((False,) * 9 + (True,))),
        seed=3,
        log_decisions=True,
    )


def ticks(most):
    """Times in whole milliseconds, so that many coincide."""
    return st.integers(0, most).map(lambda ms: ms / 1000)


@st.composite
def nodes_of(draw):
    """A small DAG whose prompts share contents, prompts, outputs and results."""
    nodes, calls, tools = [], [], []
    for i in range(draw(st.integers(1, 6))):
        after = ()
        if nodes:
            names = [node.id for node in nodes]
            after = tuple(sorted(draw(st.sets(st.sampled_from(names), max_size=2)), key=names.index))
        known = ancestors(after, nodes)
        delay_s, at_s = draw(ticks(3)), draw(st.none() | ticks(50))
        if nodes and draw(st.integers(0, 2)) == 0:
            tools.append(f"t{i}")
            estimate = draw(st.none() | ticks(30))
            result_id = draw(st.sampled_from((None, "shared")))
            tokens = draw(st.integers(0, 9))
            nodes.append(ToolNode(f"t{i}", after, "web", draw(ticks(30)), estimate, tokens, result_id, delay_s, at_s))
            continue
        prompt = [Piece(draw(st.sampled_from(CONTENTS)), draw(st.integers(1, 30)))]
        if any(name in calls for name in known) and draw(st.booleans()):
            before = draw(st.sampled_from([name for name in known if name in calls]))
            prompt = [PromptOf(before), *draw(st.sampled_from(([], [OutputOf(before)])))]
        if any(name in tools for name in known):
            prompt.append(ResultOf(draw(st.sampled_from([name for name in known if name in tools]))))
        if draw(st.booleans()):
            prompt.append(Piece(draw(st.sampled_from(CONTENTS)), draw(st.integers(1, 15))))
        calls.append(f"c{i}")
        tokens = draw(st.integers(1, 25))
        output = draw(st.sampled_from((None, None, None, (Piece("answer", tokens),))))
        kind = draw(st.sampled_from(TYPES))
        nodes.append(
            LLMNode(
                f"c{i}",
                after,
                kind,
                kind,
                tuple(prompt),
                tokens,
                output=output,
                output_id=draw(st.sampled_from((None, None, "x"))),
                delay_s=delay_s,
                at_s=at_s,
                critical=draw(st.booleans()),
            )
        )
    return tuple(nodes)


def ancestors(after, nodes):
    """Ids of all nodes above, nearest first."""
    by_id = {node.id: node for node in nodes}
    found, stack = {}, list(after)
    while stack:
        name = stack.pop(0)
        if name not in found:
            found[name] = None
            stack.extend(by_id[name].after)
    return list(found)


@st.composite
def traces(draw):
    """A few programs; some graphs are run by several of them."""
    graphs = draw(st.lists(nodes_of(), min_size=1, max_size=3))
    programs, at_s = [], 0.0
    for i in range(draw(st.integers(1, 7))):
        at_s += draw(ticks(10))
        programs.append(Program(f"p{i}", "app", at_s, draw(st.sampled_from(graphs))))
    return programs


PARAMETERS = (
    ("vllm-offload", {"prompt_only": False}),
    ("infercept", {"estimator": "foreseen", "info": "oracle"}),
    ("continuum", {"samples": 1}),
    ("autellix", {"mode": "atlas", "first_quantum_s": 0.002, "interval_steps": 3, "starvation": 2.0}),
    ("thunderagent", {"interval_s": 0.01}),
    ("concur", {"start": 1, "interval_s": 0.01}),
    ("mori", {"interval_s": 0.01}),
    ("lightllm", {"estimate": "history"}),
    ("belady", {"weight": "cost", "tiers": "both"}),
    ("compose", {"order": "srpf", "place": "clairvoyant", "evict_order": None, "store": "clairvoyant"}),
)
"""Parameters with which policies do something in worlds that last for some tens of milliseconds."""


def policies():
    """Makers of policies: mostly random decisions, sometimes a shipped policy."""
    wild = st.builds(
        lambda seed, wildness: lambda: registry.create("random", {"seed": seed, "wildness": wildness}),
        st.integers(0, 10**6),
        st.sampled_from((0.2, 0.5, 0.9)),
    )
    shipped = [(name, {}) for name in registry.names() if name != "random"] + list(PARAMETERS)
    plain = st.sampled_from(shipped).map(lambda choice: lambda: registry.create(*choice))
    return st.one_of(wild, plain)


@pytest.fixture(scope="session")
def worlds():
    """Strategy for (programs, configuration, maker of a policy)."""
    return st.tuples(traces(), configs(), policies())


@pytest.fixture(scope="session")
def with_engine():
    """The configuration with other engine switches."""
    return lambda config, **switches: replace(config, engine=replace(config.engine, **switches))
