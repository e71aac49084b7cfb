"""Shortest remaining program first: a bound for orders that favour nearly finished work."""

from __future__ import annotations

from tokencake.policies.api import CallView, Info, View
from tokencake.policies.graph import decode_s
from tokencake.policies.ranked import RankedByRemaining


class ShortestRemaining(RankedByRemaining):
    """Shortest remaining program first, with the truth about coming outputs: a bound, not a system.

    A call's key is what remains of its program: the longest path of decode times over nodes that have not
    ended. The smallest goes first; the victim when memory is short is the running call with the
    largest. SRPT minimizes mean completion on one preemptive server; an engine that batches is none, so this is
    an informed order and no proof of optimality. Its blind cousin is ``autellix``.

    Assumed:
        Tools are no service. A call decodes as if alone (a common factor), prefill is not counted, and a
        running call counts in full until it ends. At a level without truths, what is expected when a
        program is first seen. Nobody is preempted to make room for a shorter program: recomputing
        would be service, too.
    """

    info = Info.ORACLE

    def __init__(self) -> None:
        super().__init__(decode_s)

    def _rank(self, view: View, call: CallView) -> float:
        return self._remaining.left(view, call.program)
