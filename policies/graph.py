"""Where programs stand in their declared graphs, and how far their coming nodes are.

The one home of graph walks. Only the unfinished part of a graph is walked, so a long program costs
no more than a short one.
"""

from __future__ import annotations

from collections.abc import Callable

from tokencake.policies.api import Event, EventKind, ProgramView, View


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

    def under_way(self, program: str) -> bool:
        """Whether a program has called and has not ended."""
        return program in self._arrived

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

    def ready_at(self, view: View, program: ProgramView, node: str, token_s: float) -> float:
        """When the call at a node can be expected to arrive, in seconds of the run.

        Tools take what the view foresees of them (unknown: no time), calls that have not ended their
        foreseen output at ``token_s`` seconds a token, from now on.
        """
        now = view.now

        def reach(at: str, before: float) -> float:
            if at == node:
                return before
            tool = program.tool(at)
            if tool is None:
                return max(before, now) + (view.foresee_call(program, at) or 0.0) * token_s
            begin = max(before, now) if tool.started_s is None else tool.started_s
            return begin + (view.foresee_tool(program, at) or 0.0)

        return self.walk(program, node, reach)


class Remaining:
    """Longest paths from nodes to the end of their programs; pass it every event.

    A node that has not ended has no descendant that has, so the paths never change, and the longest path that
    remains of a program is that of its first unfinished node in their order.

    Args:
        cost: ``cost(view, program, node)``, what a node adds to a path.
    """

    def __init__(self, cost: Callable[[View, ProgramView, str], float]):
        self._cost = cost
        self._paths: dict[str, dict[str, float]] = {}
        self._ranked: dict[str, list[str]] = {}
        self._frontier = Frontier()

    def observe(self, event: Event) -> None:
        """Follow what has ended, and forget programs that have."""
        self._frontier.observe(event)
        if event.kind is EventKind.PROGRAM_FINISHED:
            self._paths.pop(event.program, None)
            self._ranked.pop(event.program, None)

    def path(self, view: View, program: ProgramView, node: str) -> float:
        """Longest path from a node to the end, its own cost included."""
        return self._of(view, program)[node]

    def left(self, view: View, program: ProgramView) -> float:
        """Longest path from any node that has not ended."""
        paths = self._of(view, program)
        ranked = self._ranked[program.id]
        while ranked and self._frontier.finished(program.id, ranked[-1]):
            ranked.pop()
        return paths[ranked[-1]] if ranked else 0.0

    def _of(self, view: View, program: ProgramView) -> dict[str, float]:
        found = self._paths.get(program.id)
        if found is None:
            found = self._paths[program.id] = self._longest(view, program)
            self._ranked[program.id] = sorted(found, key=lambda node: found[node])
        return found

    def _longest(self, view: View, program: ProgramView) -> dict[str, float]:
        paths: dict[str, float] = {}
        for root in program.nodes:
            stack = [root]
            while stack:
                at = stack[-1]
                after = program.successors(at)
                missing = [node for node in after if node not in paths]
                if missing and at not in paths:
                    stack += missing
                    continue
                stack.pop()
                if at not in paths:
                    paths[at] = self._cost(view, program, at) + max((paths[node] for node in after), default=0.0)
        return paths


def decode_s(view: View, program: ProgramView, node: str) -> float:
    """Seconds in which a call would decode alone, as far as its output is foreseen; 0 for a tool."""
    if program.tool(node) is not None:
        return 0.0
    return (view.foresee_call(program, node) or 0.0) * view.cost.step_time(1, 0)
