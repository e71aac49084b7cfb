"""How long TokenCake expects a tool to take: the developer's estimate and history, mixed (paper, eq. 1)."""

from __future__ import annotations

from collections import OrderedDict

from tokencake.policies.api import CallView, Event, Info, ProgramView, View
from tokencake.policies.durations import foreseen

MOST_HISTORIES = 4096
"""Kinds remembered; the one learnt longest ago is forgotten."""

Kind = tuple[str, str]
"""What history is kept for: who calls (or nobody in particular), and the tool."""


class Prediction:
    """Expected durations.

    ``alpha * estimate + (1 - alpha) * history``; either alone where the other is missing; the mean declared
    estimate of the kind, then a default, where both are.

    Args:
        alpha: Weight of the estimate.
        ewma: Weight of the newest duration in the history.
        default_s: Seconds for a tool of which nothing is known.
    """

    def __init__(self, *, alpha: float, ewma: float, default_s: float):
        self._alpha = alpha
        self._ewma = ewma
        self._default_s = default_s
        self._history: OrderedDict[Kind, float] = OrderedDict()
        self._declared: dict[str, tuple[float, int]] = {}

    def declare(self, program: ProgramView) -> None:
        """Take note of the estimates in a program's graph, for tools that have none of their own."""
        for node in program.nodes:
            tool = program.tool(node)
            if tool is not None and tool.estimate_s is not None:
                total, count = self._declared.get(tool.tool, (0.0, 0))
                self._declared[tool.tool] = (total + tool.estimate_s, count + 1)

    def learn(self, kind: Kind, seconds: float) -> None:
        """A tool of this kind took ``seconds``."""
        known = self._history.pop(kind, None)
        self._history[kind] = seconds if known is None else self._ewma * seconds + (1 - self._ewma) * known
        if len(self._history) > MOST_HISTORIES:
            self._history.popitem(last=False)

    def expect(self, kind: Kind, estimate_s: float | None) -> float:
        """Seconds that a tool of this kind is expected to take in all."""
        known = self._history.get(kind)
        if estimate_s is not None:
            return estimate_s if known is None else self._alpha * estimate_s + (1 - self._alpha) * known
        if known is not None:
            return known
        total, count = self._declared.get(kind[1], (0.0, 0))
        return total / count if count else self._default_s

    def started(self, event: Event, view: View, call: CallView, info: Info) -> float:
        """Seconds that the tool which just started after a call is expected to take.

        At an information level that foresees a single duration, that is the answer.
        """
        told = foreseen(info, view, call.program, event.node)
        return self.expect(kind_of(call, event.tool), event.estimate_s) if told is None else told


def kind_of(call: CallView, tool: str) -> Kind:
    """What the history of a tool after a call is kept under."""
    return call.agent_type or call.agent, tool
