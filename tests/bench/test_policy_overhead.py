"""CPU time of one decision of each policy, with at least 100 calls waiting, 100 running and 200 chains stalled.

Figures, never assertions (``make bench``). ``extra_info`` holds microseconds a decision: the mean of each decision
point, and the largest of these means; a page in docs/policies explains what lies over 200.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tokencake.policies import registry
from tokencake.policies.answers import HOOKS
from tokencake.policies.api import Policy, View, overrides
from tokencake.sim.config import EngineConfig, SimConfig
from tokencake.sim.latency.linear import LinearCoefficients, LinearLatency
from tokencake.sim.run import simulate
from tokencake.traces.schema import LLMNode, OutputOf, Piece, Program, PromptOf, ToolNode

PARAMS: dict[str, dict[str, Any]] = {
    "concur": {"start": 1000},
    "belady": {"weight": "cost"},
    "autellix": {"first_quantum_s": 1e3},
}
"""Parameters under which the crowd is let in, or under which a policy works hardest."""

KEEPING = ("infercept",)
"""Policies that have nothing to decide once all is in the CPU tier: they are measured without one."""


RECKONING = ("lightllm", "sglang-lpm")
"""Policies that look at what a call may become: for them those that wait have short prompts and declare much."""


def crowd(*, declaring: bool) -> list[Program]:
    """230 programs with long tools, 110 with long answers, others with prompts too long to start beside them.

    Args:
        declaring: The last have short prompts, and declare more output than there is memory.
    """

    def make(name: str, at_s: float, prompt: int, output: int, tool_s: float, limit: int = 0) -> Program:
        limit = limit or output
        first = LLMNode("a", (), "a", f"type{len(name) % 3}", (Piece(name, prompt),), output, max_tokens=limit)
        again = (PromptOf("a"), OutputOf("a"), Piece(f"{name}/b", 16))
        last = LLMNode("b", ("t",), "a", "a", again, 8, max_tokens=8)
        return Program(name, "crowd", at_s, (first, ToolNode("t", ("a",), f"tool{output % 5}", tool_s, tool_s), last))

    stalled = [make(f"s{i}", 0.001 * i, 64, 4 + i % 7, 2000.0 + i) for i in range(230)]
    running = [make(f"r{i}", 2.0 + 0.001 * i, 64, 500 + 3 * i, 1000.0) for i in range(110)]
    prompt, limit, count = (64, 200_000, 135) if declaring else (90_000, 4, 105)
    return stalled + running + [make(f"w{i}", 4.0 + 0.005 * i, prompt, 400, 10.0, limit) for i in range(count)]


class Timed(Policy):
    """Decides what another policy decides, and measures it while there is a crowd."""

    def __init__(self, policy: Policy):
        self.info = policy.info
        self.store_when = policy.store_when
        self.spent: dict[str, list[int]] = {}
        for hook in HOOKS:
            if overrides(policy, hook) and hook != "evict_order":
                setattr(self, hook, self._timed(hook, getattr(policy, hook)))
        if overrides(policy, "evict_order"):
            vars(self)["evict_order"] = policy.evict_order

    def _timed(self, hook: str, decide: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            view: View = args[1] if hook == "observe" else args[0]
            stalled = (
                200 if "place" not in vars(self) else len(view.stalled)
            )  # a host without placement follows no stalls
            if stalled < 200 or len(view.running) < 100 or len(view.waiting) < 100:
                return decide(*args)
            begin = time.thread_time_ns()
            answer = decide(*args)
            self.spent.setdefault(hook, []).append(time.thread_time_ns() - begin)
            return answer

        return timed


@pytest.mark.parametrize("name", registry.names())
def test_decision(benchmark: Any, name: str) -> None:
    cpu_blocks = 0 if name in KEEPING else 20_000
    engine = EngineConfig(gpu_blocks=6500, cpu_blocks=cpu_blocks, max_model_len=131_072)
    latency = LinearLatency(LinearCoefficients(5000, per_prefill_token_us=20, per_decode_us=50))
    config = SimConfig(engine, latency, kv_bytes_per_token=100_000)
    trace = crowd(declaring=name in RECKONING)
    timed: list[Timed] = []

    def run() -> Any:
        timed.append(Timed(registry.create(name, PARAMS.get(name))))
        return simulate(trace, config, timed[-1])

    result = benchmark.pedantic(run, rounds=1, iterations=1)
    assert result.summary["programs"] == len(trace)
    means = {hook: sum(spent) / len(spent) / 1000 for hook, spent in timed[-1].spent.items()}
    benchmark.extra_info["us_a_decision"] = {hook: round(mean, 1) for hook, mean in means.items()}
    benchmark.extra_info["most_us"] = round(max(means.values(), default=0.0), 1)
    benchmark.extra_info["decisions"] = {hook: len(spent) for hook, spent in timed[-1].spent.items()}
