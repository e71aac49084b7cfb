"""Programs as a whole: their context, whether they reason or act, and which of them are held back.

The one home of what program-level gates share (ThunderAgent, MORI, CONCUR).
"""

from __future__ import annotations

from dataclasses import dataclass

from tokencake.policies.api import ChainView, Event, EventKind
from tokencake.policies.returns import Returns


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
        call_tokens: Input of its calls under way.
        stalled_tokens: Tokens of the ended calls that it will come back to.
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
    call_tokens: int = 0
    stalled_tokens: int = 0

    @property
    def context(self) -> int:
        """Tokens of its calls under way, or of what it will come back to while there are none."""
        return self.call_tokens if self.under_way else self.stalled_tokens

    @property
    def reasoning(self) -> bool:
        """Whether a call of it waits or runs; otherwise it acts."""
        return self.under_way > 0


class Programs:
    """All programs under way, in order of arrival; pass it every event."""

    def __init__(self) -> None:
        self.under_way: dict[str, Standing] = {}
        self._seen: dict[str, None] = {}
        self._stalls = Returns()
        self._tokens: dict[str, int] = {}
        self._arrivals = 0

    def observe(self, event: Event) -> None:
        """Count calls, and note when a program acts."""
        kind = event.kind
        if kind is EventKind.PROGRAM_FINISHED:
            self.under_way.pop(event.program, None)
            for chain in self._stalls.of_program(event.program):
                self._stalls.remove(chain.call.id)
                self._tokens.pop(chain.call.id, None)
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

    def queued(self, chain: ChainView) -> Standing:
        """A call waits (``place(QUEUED)``): it takes over the context of what it continues."""
        call = chain.call
        program = self.standing(call.program.id)
        for before in self._stalls.before(call.id):
            program.stalled_tokens -= self._tokens.pop(before.call.id)
            self._stalls.remove(before.call.id)
        self._tokens[call.id] = call.prompt_tokens
        program.call_tokens += call.prompt_tokens
        return program

    def stalled(self, chain: ChainView) -> Standing:
        """A call has ended (``place(STALL)``)."""
        call = chain.call
        program = self.standing(call.program.id)
        program.call_tokens -= self._tokens.pop(call.id, 0)
        if chain.next_calls:
            self._stalls.add(chain)
            self._tokens[call.id] = call.prompt_tokens + call.output_tokens
            program.stalled_tokens += self._tokens[call.id]
        return program

    def chains(self, program: str) -> tuple[ChainView, ...]:
        """Chains of ended calls that a program will come back to, and that no waiting call has taken over."""
        return self._stalls.of_program(program)
