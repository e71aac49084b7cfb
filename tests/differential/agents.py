"""The applications' side of the oracle: a second, independent replay of programs.

Same rules as :mod:`tokencake.sim.tools`, without SimPy: a heap of ``(time, kind, creation order)``.
Everything is integer picoseconds.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tokencake.sim.config import WorkloadConfig, to_ps
from tokencake.traces.resolve import Resolved, resolve
from tokencake.traces.schema import LLMNode, Node, Program

TOOL, ARRIVAL = 0, 1  # order of events at the same time; then creation order


@dataclass
class Run:
    """One program on its way; ``rank`` counts distinct arrival times."""

    program: Program
    rank: int
    resolved: dict[str, Resolved]
    pending: dict[str, int]
    left: int
    followers: dict[str, list[Node]] = field(default_factory=dict)


@dataclass
class Issued:
    """One call, as the engine receives it."""

    run: Run
    node: LLMNode
    arrival_ps: int

    @property
    def key(self) -> tuple[str, str]:
        """Program id and node id."""
        return self.run.program.program, self.node.id

    @property
    def content(self) -> Resolved:
        """What prompt and output hold."""
        return self.run.resolved[self.node.id]


class Agents:
    """Replays programs.

    Args:
        programs: In order of arrival.
        workload: How they are replayed.
        submit: Receives each call at its arrival.

    Attributes:
        end_ps: When the last program ended.
    """

    def __init__(self, programs: Iterable[Program], workload: WorkloadConfig, submit: Callable[[Issued], None]):
        self.end_ps = 0
        self.done = 0
        self._source = iter(programs)
        self._submit = submit
        self._timed = workload.calls == "timed"
        self._delay_ps = to_ps(workload.client_delay_s)
        self._closed = workload.concurrency
        self._heap: list[tuple[int, int, int, Callable[..., None], tuple[object, ...]]] = []
        self._made = self._rank = 0
        self._now, self._arrived = 0, -1
        for _ in range(self._closed or 1):
            self._next_program()

    def next_ps(self) -> int | None:
        """Time of the next event; None if nothing is to come."""
        return self._heap[0][0] if self._heap else None

    def play(self, until_ps: int) -> None:
        """Let everything up to and including a time happen."""
        while self._heap and self._heap[0][0] <= until_ps:
            self._now, _, _, happen, arguments = heapq.heappop(self._heap)
            happen(*arguments)
        self._now = until_ps

    def now(self, time_ps: int) -> None:
        """Set the clock; everything before has happened."""
        self._now = time_ps

    def ended(self, run: Run, node: Node) -> None:
        """A node ended now: start what waited for it."""
        run.left -= 1
        for follower in run.followers.get(node.id, ()):
            run.pending[follower.id] -= 1
            if not run.pending[follower.id]:
                self._ready(run, follower, first=False)
        if not run.left:
            self.done += 1
            self.end_ps = self._now
            if self._closed:
                self._next_program()

    def _at(self, time_ps: int, kind: int, happen: Callable[..., None], *arguments: object) -> None:
        self._made += 1
        heapq.heappush(self._heap, (time_ps, kind, self._made, happen, arguments))

    def _next_program(self) -> None:
        program = next(self._source, None)
        if program is not None:
            at = self._now if self._closed else to_ps(program.arrival_s)
            self._at(at, ARRIVAL, self._arrive, program)

    def _arrive(self, program: Program) -> None:
        pending = {node.id: len(node.after) for node in program.nodes}
        self._rank += self._now > self._arrived
        self._arrived = self._now
        run = Run(program, self._rank, resolve(program), pending, len(program.nodes))
        for node in program.nodes:
            for before in node.after:
                run.followers.setdefault(before, []).append(node)
        for node in program.nodes:
            if not node.after:
                self._ready(run, node, first=True)
        if not self._closed:
            self._next_program()

    def _ready(self, run: Run, node: Node, *, first: bool) -> None:
        call = isinstance(node, LLMNode)
        at = self._now + to_ps(node.delay_s)
        if call and not first:
            at += self._delay_ps
        if self._timed and node.at_s is not None:
            at = max(at, to_ps(node.at_s))
        if at == self._now and (first or not call):
            (self._call if call else self._tool)(run, node)  # type: ignore[operator]
        else:
            self._at(at, ARRIVAL if call else TOOL, self._call if call else self._tool, run, node)

    def _call(self, run: Run, node: LLMNode) -> None:
        self._submit(Issued(run, node, self._now))

    def _tool(self, run: Run, node: Node) -> None:
        self._at(self._now + to_ps(node.duration_s), TOOL, self.ended, run, node)  # type: ignore[union-attr]
