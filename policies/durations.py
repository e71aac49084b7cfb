"""How long tools take: what has been measured, and what may be expected of a tool that runs.

The one home of duration estimates: a policy at :attr:`~tokencake.policies.api.Info.HISTORY` learns
from the events that it observes, one at another level asks its view.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Sequence

from tokencake.policies.api import Event, EventKind, Info, ProgramView, View

EVERY_TOOL = ""
"""Name under which :class:`ToolHistory` keeps the durations of all tools together."""

SHORTEST_S = 1e-6
"""Durations below this count as this, so that every one has a logarithm."""


class ToolHistory:
    """The last measured durations of each tool, in seconds.

    Args:
        window: Durations kept of a tool, and of all tools together.
    """

    def __init__(self, window: int = 500):
        self._window = window
        self._recent: dict[str, deque[float]] = {}
        self._sorted: dict[str, list[float]] = {}

    def observe(self, event: Event) -> None:
        """Remember the duration of a tool that ended."""
        if event.kind is EventKind.TOOL_FINISHED and event.elapsed_s is not None:
            self._add(event.tool, event.elapsed_s)
            self._add(EVERY_TOOL, event.elapsed_s)

    def sorted(self, tool: str) -> Sequence[float]:
        """Durations of a tool (:data:`EVERY_TOOL`: of all), shortest first."""
        return self._sorted.get(tool, ())

    def _add(self, tool: str, seconds: float) -> None:
        recent = self._recent.setdefault(tool, deque())
        ranked = self._sorted.setdefault(tool, [])
        if len(recent) == self._window:
            ranked.remove(recent.popleft())
        recent.append(seconds)
        insort(ranked, seconds)


class LogNormals:
    """Log-normal fits of the durations of each tool: running moments of their logarithms."""

    def __init__(self) -> None:
        self._moments: dict[str, tuple[int, float, float]] = {}

    def observe(self, event: Event) -> None:
        """Add the duration of a tool that ended (Welford's update)."""
        if event.kind is EventKind.TOOL_FINISHED and event.elapsed_s is not None:
            count, mean, squares = self._moments.get(event.tool, (0, 0.0, 0.0))
            value = math.log(max(event.elapsed_s, SHORTEST_S))
            count += 1
            step = value - mean
            mean += step / count
            self._moments[event.tool] = (count, mean, squares + step * (value - mean))

    def quantile(self, tool: str, deviations: float) -> float | None:
        """``exp(mu + deviations * sigma)`` in seconds; None while the tool has not been seen."""
        count, mean, squares = self._moments.get(tool, (0, 0.0, 0.0))
        if not count:
            return None
        sigma = math.sqrt(max(0.0, squares) / (count - 1)) if count > 1 else 0.0
        return math.exp(mean + deviations * sigma)


def foreseen(policy_info: Info, view: View, program: ProgramView, node: str) -> float | None:
    """A single expected duration from the view, at the levels that give one; None otherwise.

    At ``HISTORY`` the distributions of :class:`ToolHistory` say more than a mean does.
    """
    if policy_info in (Info.NONE, Info.HISTORY):
        return None
    return view.foresee_tool(program, node)
