"""Programs as a whole: their context, whether they reason or act, and which of them are held back.

The one home of what program-level gates share (ThunderAgent, MORI, CONCUR).
"""

from __future__ import annotations

from dataclasses import dataclass

from tokencake.policies.api import Event, EventKind, View


@dataclass(slots=True)
class Standing:
    """A program under way.

    Attributes:
        id: Program id.
        order: Number of its arrival.
        calls: Calls that have arrived so far.
        served: Calls that have been admitted at least once.
        under_way: Calls that wait or run.
        running: Calls that run.
        acting_since: When its last call ended; None while a call is under way.
        paused_since: When it was held back; None if it is not.
        marked: It is to be held back at its next boundary.
    """

    id: str
    order: int
    calls: int = 0
    served: int = 0
    under_way: int = 0
    running: int = 0
    acting_since: float | None = None
    paused_since: float | None = None
    marked: bool = False

    @property
    def reasoning(self) -> bool:
        """Whether a call of it waits or runs; otherwise it acts."""
        return self.under_way > 0


class Programs:
    """All programs under way, in order of arrival; pass it every event."""

    def __init__(self) -> None:
        self.under_way: dict[str, Standing] = {}
        self._seen: dict[str, None] = {}
        self._arrivals = 0

    def observe(self, event: Event) -> None:
        """Count calls, and note when a program acts."""
        kind = event.kind
        if kind is EventKind.PROGRAM_FINISHED:
            self.under_way.pop(event.program, None)
        elif kind is EventKind.CALL_QUEUED:
            program = self.standing(event.program)
            program.calls += 1
            program.under_way += 1
            program.acting_since = None
        elif kind is EventKind.CALL_ADMITTED:
            program = self.standing(event.program)
            program.running += 1
            if event.call not in self._seen:
                self._seen[event.call] = None
                program.served += 1
        elif kind is EventKind.CALL_PREEMPTED:
            self.standing(event.program).running -= 1
        elif kind is EventKind.CALL_FINISHED:
            self._seen.pop(event.call, None)
            program = self.standing(event.program)
            program.running = max(0, program.running - 1)
            program.under_way -= 1
            if not program.under_way:
                program.acting_since = event.at

    def standing(self, program: str) -> Standing:
        """Where a program stands."""
        found = self.under_way.get(program)
        if found is None:
            self._arrivals += 1
            found = self.under_way[program] = Standing(program, self._arrivals)
        return found

    def contexts(self, view: View) -> dict[str, int]:
        """Tokens of each program: of its calls under way, or of the chains that it will come back to."""
        tokens = dict.fromkeys(self.under_way, 0)
        for call in (*view.running, *view.waiting):
            name = call.program.id
            tokens[name] = tokens.get(name, 0) + call.prompt_tokens + call.output_tokens
        for chain in view.stalled:
            call = chain.call
            standing = self.under_way.get(call.program.id)
            if standing is not None and not standing.reasoning:
                tokens[standing.id] += call.prompt_tokens + call.output_tokens
        return tokens
