"""A small synthetic agent workload for tests and the demo: random DAGs of a few agent types.

A program is a plan, then a few rounds, then a summary. A round is one to ``fanout`` parallel
workers; a worker is a call, a tool, and sometimes a second call that continues the first. All agents
of one type share a system prompt across programs; every program has its own task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tokencake.traces.generators.drawn import Draft, Drawn
from tokencake.traces.generators.params import check_count, check_number
from tokencake.traces.rng import stream
from tokencake.traces.schema import Node, OutputOf, Program, PromptOf, PromptPart, ResultOf

APP = "demo"
WORKERS = ("coder", "searcher", "tester")
TOOLS = {"coder": ("file_write", 0.2), "searcher": ("search", 3.0), "tester": ("test", 6.0)}
"""Tool of each worker type and its median duration in seconds."""


@dataclass(frozen=True, slots=True)
class Demo(Drawn):
    """Parameters of the demo workload.

    Attributes:
        qps: programs per second.
        programs_count: number of programs.
        seed: seed of everything random.
        arrivals: arrival process.
        cv: coefficient of variation of gamma arrivals.
        rounds: greatest number of rounds of a program.
        fanout: greatest number of parallel workers in a round.
        system_tokens: length of each agent type's shared system prompt.
        task_tokens: mean length of a program's own task.
        output_tokens: mean output of a call.
        tool_sigma: spread (sigma of the logarithm) of tool durations; 0 makes them constant.
        tool_scale: factor on all tool durations.
        declared: whether calls declare ``max_tokens`` and tools ``estimate_s`` (their median).
    """

    generator: ClassVar[str] = "demo"

    qps: float = 0.5
    programs_count: int = 20
    seed: int = 0
    arrivals: str = "poisson"
    cv: float = 2.0
    rounds: int = 3
    fanout: int = 3
    system_tokens: int = 200
    task_tokens: int = 800
    output_tokens: int = 120
    tool_sigma: float = 0.5
    tool_scale: float = 1.0
    declared: bool = True

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: naming the field, the rule and the value.
        """
        check_count("programs_count", self.programs_count, 1)
        check_count("rounds", self.rounds, 0, 1000)
        check_count("fanout", self.fanout, 1, 1000)
        check_count("system_tokens", self.system_tokens, 0, 10**6)
        check_count("task_tokens", self.task_tokens, 1, 10**6)
        check_count("output_tokens", self.output_tokens, 1, 10**6)
        check_number("tool_sigma", self.tool_sigma, 0, 10)
        check_number("tool_scale", self.tool_scale, 0)
        self._process()

    def _program(self, number: int) -> Program:
        name = f"demo-{number:04d}"
        return Program(name, APP, 0.0, tuple(_Draft(self, name, number).nodes()))


class _Draft(Draft):
    """The structure has a stream of its own."""

    def __init__(self, params: Demo, name: str, number: int) -> None:
        super().__init__(APP, params.seed, name, number, params.system_tokens)
        self._params = params
        self._shape = stream(params.seed, f"{APP}/shape/{number}")

    def nodes(self) -> list[Node]:
        """Draw and return the nodes."""
        task = self.task(self._params.task_tokens)
        plan = self._call("plan", "planner", (), (self.system("planner"), task), twin=False)
        heads: tuple[str, ...] = (plan,)
        known: tuple[PromptPart, ...] = (PromptOf(plan), OutputOf(plan))
        for round_ in range(self._shape.randint(0, self._params.rounds)):
            width = self._shape.randint(1, self._params.fanout)
            ends = [self._worker(f"r{round_}w{k}", heads, known) for k in range(width)]
            heads = tuple(end for end, _ in ends)
            known = (*known, *(part for _, parts in ends for part in parts))
        self._call("summary", "planner", heads, (*known, self.piece("ask/summary", 16)), twin=False)
        return self._nodes

    def _worker(
        self, name: str, after: tuple[str, ...], known: tuple[PromptPart, ...]
    ) -> tuple[str, tuple[PromptPart, ...]]:
        """Add a worker; return its last node and what it hands to those after it."""
        kind = self._shape.choice(WORKERS)
        call = self._call(name, kind, after, (self.system(kind), *known, self.piece(f"ask/{kind}", 24)))
        tool = self._tool(f"{name}.tool", kind, call)
        if self._shape.random() < 0.5:
            return tool, (OutputOf(call), ResultOf(tool))
        more = (PromptOf(call), OutputOf(call), ResultOf(tool), self.piece("ask/report", 12))
        report = self._call(f"{name}.report", kind, (tool,), more, twin=False)
        return report, (OutputOf(report),)

    def _call(
        self, name: str, kind: str, after: tuple[str, ...], prompt: tuple[PromptPart, ...], *, twin: bool = True
    ) -> str:
        tokens = self.around(self._params.output_tokens)
        # Applications declare a round number, seldom the truth.
        limit = -(-tokens // 64) * 64 if self._params.declared else None
        return self.call(name, kind, after, prompt, tokens, limit, twin=twin)

    def _tool(self, name: str, kind: str, after: str) -> str:
        tool, median_s = TOOLS[kind]
        median_s *= self._params.tool_scale
        duration_s = median_s * self._durations.lognormvariate(0.0, self._params.tool_sigma)
        return self.tool(name, after, tool, duration_s, median_s if self._params.declared else None, 100)
