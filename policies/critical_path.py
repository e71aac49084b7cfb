"""Critical path first: a bound for orders that look at the graph."""

from __future__ import annotations

from collections.abc import Sequence

from tokencake.policies.api import CallView, Event, Info, Policy, ProgramView, View
from tokencake.policies.graph import Remaining, decode_s


class CriticalPath(Policy):
    """Critical path first, with the truth about outputs and tools: a bound, not a system.

    A call's key is the longest path from it to the end of its program, decode times and tool times
    together. The longest goes first; the victim when memory is short is the running call with the shortest.
    It shortens the makespan of a graph; between programs it favours the long ones, so its mean latency may
    be bad: that is what it is there to show.

    Assumed:
        A call decodes as if alone and prefill is not counted, so tools weigh more than they would under
        load. At a level without truths, what is expected when a program is first seen.
    """

    info = Info.ORACLE

    def __init__(self) -> None:
        self._remaining = Remaining(_seconds)

    def observe(self, event: Event, view: View) -> None:
        """Follow what has ended."""
        self._remaining.observe(event)

    def order(self, view: View, waiting: Sequence[CallView]) -> Sequence[CallView]:
        """Longest path first, then by arrival."""
        return sorted(waiting, key=lambda call: self._key(view, call))

    def victim(self, view: View, need: int, for_call: CallView) -> CallView:
        """The running call with the shortest path."""
        return max(view.running, key=lambda call: self._key(view, call))

    def _key(self, view: View, call: CallView) -> tuple[float, float, str]:
        return -self._remaining.path(view, call.program, call.node), call.arrival_s, call.id


def _seconds(view: View, program: ProgramView, node: str) -> float:
    if program.tool(node) is not None:
        return view.foresee_tool(program, node) or 0.0
    return decode_s(view, program, node)
