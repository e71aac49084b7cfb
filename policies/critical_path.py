"""Critical path first: a bound for orders that look at the graph."""

from __future__ import annotations

from tokencake.policies.api import CallView, Info, ProgramView, View
from tokencake.policies.graph import decode_s
from tokencake.policies.ranked import RankedByRemaining


class CriticalPath(RankedByRemaining):
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
        super().__init__(_seconds)

    def _rank(self, view: View, call: CallView) -> float:
        return -self._remaining.path(view, call.program, call.node)


def _seconds(view: View, program: ProgramView, node: str) -> float:
    if program.tool(node) is not None:
        return view.foresee_tool(program, node) or 0.0
    return decode_s(view, program, node)
