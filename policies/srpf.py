"""Shortest remaining program first: a bound for orders that favour nearly finished work."""

from __future__ import annotations

from collections.abc import Sequence

from tokencake.policies.api import CallView, Event, Info, Policy, View
from tokencake.policies.graph import Remaining, decode_s


class ShortestRemaining(Policy):
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
        self._remaining = Remaining(decode_s)

    def observe(self, event: Event, view: View) -> None:
        """Follow what has ended."""
        self._remaining.observe(event)

    def order(self, view: View, waiting: Sequence[CallView]) -> Sequence[CallView]:
        """Least remaining first, then by arrival."""
        return sorted(waiting, key=lambda call: self._key(view, call))

    def victim(self, view: View, need: int, for_call: CallView) -> CallView:
        """The running call whose program has most left."""
        return max(view.running, key=lambda call: self._key(view, call))

    def _key(self, view: View, call: CallView) -> tuple[float, float, str]:
        return self._remaining.left(view, call.program), call.arrival_s, call.id
