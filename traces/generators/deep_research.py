"""A Deep-Research-like application: researchers search in turn and in parallel, a writer waits for them.

TokenCake's paper evaluates a "Deep Research" application and publishes neither its graph nor its lengths.
What is kept here is what the paper says of it: it depends heavily on the order of its agents, and its tools
are searches of the RAG kind (query, embed, generate). The rest is assumed:

* A *planner* writes a plan. In each of ``waves`` waves, ``researchers`` agents work at once; each alternates
  ``searches`` times between a call that writes a query and a search tool, keeps all it read in its context, and
  ends with notes. A *critic* reads all notes, and the next wave starts from its critique. A *writer* reads the
  notes of the last wave and reports.
* All agents of a type share a system prompt across programs; a program's task is its own.
* Search results differ between programs and searches. Tool durations are drawn from a Poisson distribution (as
  in the paper), in units of ``tool_unit_s``, at least a tenth of a unit; the estimate is the mean.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import ClassVar

from tokencake.traces.generators.drawn import Draft, Drawn
from tokencake.traces.generators.params import check_count, check_number
from tokencake.traces.schema import Node, OutputOf, Program, PromptOf, PromptPart, ResultOf

APP = "deep-research"


@dataclass(frozen=True, slots=True)
class DeepResearch(Drawn):
    """Parameters of the Deep-Research-like workload.

    Attributes:
        qps: programs per second.
        programs_count: number of programs.
        seed: seed of everything random.
        arrivals: arrival process.
        cv: coefficient of variation of gamma arrivals.
        waves: waves of research.
        researchers: researchers at once.
        searches: searches of each.
        system_tokens: length of each agent type's shared system prompt.
        task_tokens: mean length of a program's task.
        query_tokens: mean output of a call that writes a query.
        notes_tokens: mean output of plans, notes and critiques.
        report_tokens: mean output of the writer.
        result_tokens: mean length of a search result.
        tool_mean_s: mean duration of a search, in seconds.
        tool_unit_s: unit of the Poisson distribution of durations, in seconds.
    """

    generator: ClassVar[str] = "deep_research"

    qps: float = 1.0
    programs_count: int = 24
    seed: int = 0
    arrivals: str = "poisson"
    cv: float = 2.0
    waves: int = 2
    researchers: int = 3
    searches: int = 3
    system_tokens: int = 400
    task_tokens: int = 600
    query_tokens: int = 120
    notes_tokens: int = 300
    report_tokens: int = 800
    result_tokens: int = 1200
    tool_mean_s: float = 4.0
    tool_unit_s: float = 1.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: naming the field, the rule and the value.
        """
        for name in ("programs_count", "waves", "researchers"):
            check_count(name, getattr(self, name), 1, 10_000)
        check_count("searches", self.searches, 0, 1000)
        check_count("system_tokens", self.system_tokens, 0, 10**6)
        for name in ("task_tokens", "query_tokens", "notes_tokens", "report_tokens", "result_tokens"):
            check_count(name, getattr(self, name), 1, 10**6)
        check_number("tool_mean_s", self.tool_mean_s, 0, 1e6)
        check_number("tool_unit_s", self.tool_unit_s, 1e-6, 1e6)
        if self.tool_mean_s > 500 * self.tool_unit_s:
            raise ValueError(f"tool_unit_s must be >= tool_mean_s / 500, got {self.tool_unit_s}")
        self._process()

    def _program(self, number: int) -> Program:
        name = f"research-{number:04d}"
        return Program(name, APP, 0.0, tuple(_Draft(self, name, number).nodes()))


def poisson(rng: random.Random, mean: float) -> int:
    """A Poisson draw, by multiplying uniforms (Knuth); for means up to some hundreds."""
    limit, product, count = math.exp(-mean), rng.random(), 0
    while product > limit:
        product *= rng.random()
        count += 1
    return count


class _Draft(Draft):
    def __init__(self, params: DeepResearch, name: str, number: int) -> None:
        super().__init__(APP, params.seed, name, number, params.system_tokens)
        self._params = params

    def nodes(self) -> list[Node]:
        """Draw and return the nodes."""
        p = self._params
        task = self.task(p.task_tokens)
        head = self._call("plan", "planner", (), (self.system("planner"), task), p.notes_tokens)
        told: tuple[PromptPart, ...] = (task, OutputOf(head))
        for wave in range(p.waves):
            notes = [self._researcher(f"w{wave}r{k}", k, head, told) for k in range(p.researchers)]
            read = tuple(OutputOf(note) for note in notes)
            if wave + 1 < p.waves:
                prompt = (self.system("critic"), *told, *read)
                head = self._call(f"w{wave}.critique", "critic", tuple(notes), prompt, p.notes_tokens)
                told = (*told, *read, OutputOf(head))
            else:
                self._call("report", "writer", tuple(notes), (self.system("writer"), *told, *read), p.report_tokens)
        return self._nodes

    def _researcher(self, name: str, number: int, after: str, told: tuple[PromptPart, ...]) -> str:
        """Add one researcher; return the call that writes its notes."""
        p = self._params
        prompt: tuple[PromptPart, ...] = (self.system("researcher"), *told, self.piece(f"angle/{number}", 24))
        for search in range(p.searches):
            call = self._call(f"{name}.query{search}", "researcher", (after,), prompt, p.query_tokens)
            after = self._search(f"{name}.search{search}", call)
            prompt = (PromptOf(call), OutputOf(call), ResultOf(after), self.piece("continue", 12))
        return self._call(f"{name}.notes", "researcher", (after,), prompt, p.notes_tokens)

    def _call(self, name: str, kind: str, after: tuple[str, ...], prompt: tuple[PromptPart, ...], mean: int) -> str:
        tokens = self.around(mean)
        return self.call(name, kind, after, prompt, tokens, tokens)

    def _search(self, name: str, after: str) -> str:
        p = self._params
        drawn = poisson(self._durations, p.tool_mean_s / p.tool_unit_s)
        return self.tool(name, after, "search", max(drawn, 0.1) * p.tool_unit_s, p.tool_mean_s, p.result_tokens)
