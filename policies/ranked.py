"""Orders by what remains of a program, for bounds that look at the graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from tokencake.policies.api import CallView, Event, Policy, ProgramView, View
from tokencake.policies.graph import Remaining


class RankedByRemaining(Policy, ABC):
    """Waiting calls by a rank that is made of longest paths, then by arrival; the victim is last in this order."""

    def __init__(self, cost: Callable[[View, ProgramView, str], float]) -> None:
        self._remaining = Remaining(cost)

    @abstractmethod
    def _rank(self, view: View, call: CallView) -> float:
        """Smaller goes first."""

    def observe(self, event: Event, view: View) -> None:
        """Follow what has ended."""
        self._remaining.observe(event)

    def order(self, view: View, waiting: Sequence[CallView]) -> Sequence[CallView]:
        """By rank, then by arrival."""
        return sorted(waiting, key=lambda call: self._key(view, call))

    def victim(self, view: View, need: int, for_call: CallView) -> CallView:
        """The running call that comes last in the order."""
        return max(view.running, key=lambda call: self._key(view, call))

    def _key(self, view: View, call: CallView) -> tuple[float, float, str]:
        return self._rank(view, call), call.arrival_s, call.id
