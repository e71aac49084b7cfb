"""Where programs stand in their declared graphs, and how far their coming nodes are.

The one home of graph walks. Only the unfinished part of a graph is walked, so a long program costs
no more than a short one.
"""

from __future__ import annotations

from collections.abc import Callable

from tokencake.policies.api import Event, EventKind, ProgramView


class Frontier:
    """Which nodes have ended, and which calls have arrived; pass it every event."""

    def __init__(self) -> None:
        self._finished: dict[str, dict[str, None]] = {}
        self._arrived: dict[str, dict[str, None]] = {}

    def observe(self, event: Event) -> None:
        """A call arrived, or a node ended."""
        program = event.program
        if event.kind is EventKind.CALL_QUEUED:
            self._arrived.setdefault(program, {})[event.call[len(program) + 1 :]] = None
        elif event.kind is EventKind.CALL_FINISHED:
            self._finished.setdefault(program, {})[event.call[len(program) + 1 :]] = None
        elif event.kind is EventKind.TOOL_FINISHED:
            self._finished.setdefault(program, {})[event.node] = None
        elif event.kind is EventKind.PROGRAM_FINISHED:
            self._finished.pop(program, None)
            self._arrived.pop(program, None)

    def finished(self, program: str, node: str) -> bool:
        """Whether a node has ended."""
        return node in self._finished.get(program, ())

    def arrived(self, program: str, node: str) -> bool:
        """Whether a call has reached the engine."""
        return node in self._arrived.get(program, ())

    def steps(self, program: ProgramView, node: str) -> int:
        """Steps until the call at a node executes, as in KVFlow (NeurIPS'25).

        0 once it has arrived, else one more than the most of the calls that it waits for; tools are no
        steps.
        """

        def one(at: str, before: float) -> float:
            return before if program.tool(at) is not None else before + 1

        return int(self.walk(program, node, one, self.arrived))

    def walk(
        self,
        program: ProgramView,
        node: str,
        reach: Callable[[str, float], float],
        is_base: Callable[[str, str], bool] | None = None,
    ) -> float:
        """``reach(node, largest value of what it waits for)``, over the unfinished nodes before a node.

        Finished nodes, and those for which ``is_base(program id, node)``, count as 0.
        """
        values: dict[str, float] = {}
        stack = [node]
        name = program.id
        while stack:
            at = stack[-1]
            if at in values:
                stack.pop()
                continue
            if self.finished(name, at) or (is_base is not None and is_base(name, at)):
                values[at] = 0.0
                continue
            before = program.predecessors(at)
            missing = [b for b in before if b not in values]
            if missing:
                stack += missing
                continue
            values[at] = reach(at, max((values[b] for b in before), default=0.0))
        return values[node]
