"""Age of calls: the arrival of their program, then their own; the one home of that key."""

from __future__ import annotations

from tokencake.policies.api import CallView, Event, EventKind

Age = tuple[float, float, str]
"""Arrival of the program, arrival of the call (seconds), id of the call."""


class Arrivals:
    """Ages of calls, remembered while they are under way, since a long queue is sorted often."""

    def __init__(self) -> None:
        self._ages: dict[str, Age] = {}

    def observe(self, event: Event) -> None:
        """Forget calls that ended."""
        if event.kind is EventKind.CALL_FINISHED:
            self._ages.pop(event.call, None)

    def age(self, call: CallView) -> Age:
        """Sorts the oldest first."""
        name = call.id
        found = self._ages.get(name)
        if found is None:
            found = self._ages[name] = (call.program.arrival_s, call.arrival_s, name)
        return found
