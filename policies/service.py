"""How long calls and programs have been served, and how long they have waited.

The one home of service accounting: a call is *served* from its admission to its preemption or
finish (waiting for a copy from the CPU tier included), and *waits* from its arrival, or preemption,
to its admission.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tokencake.policies.api import Event, EventKind


@dataclass(slots=True)
class CallClock:
    """Times of one call, in seconds.

    Attributes:
        program: Id of its program.
        since: When it last began to run or to wait.
        running: Whether it runs.
        served: Time served before ``since``.
        waited: Time waited before ``since``.
    """

    program: str
    since: float
    running: bool = False
    served: float = 0.0
    waited: float = 0.0

    def served_at(self, now: float) -> float:
        """Time served up to now."""
        return self.served + (now - self.since if self.running else 0.0)

    def waited_at(self, now: float) -> float:
        """Time waited up to now."""
        return self.waited + (0.0 if self.running else now - self.since)


@dataclass(slots=True)
class ProgramClock:
    """Times of a program's finished calls, in seconds.

    Attributes:
        served: Time served, summed.
        waited: Time waited, summed.
        finished: Number of finished calls.
        calls: Clocks of its calls under way, by call id.
    """

    served: float = 0.0
    waited: float = 0.0
    finished: int = 0
    calls: dict[str, CallClock] = field(default_factory=dict)


class Service:
    """Clocks of all programs and calls under way; pass it every event.

    Attributes:
        programs: By program id, until the program ends.
        waiting: Calls that wait.
    """

    def __init__(self) -> None:
        self.programs: dict[str, ProgramClock] = {}
        self.waiting = 0

    def observe(self, event: Event) -> None:
        """Advance the clocks."""
        if event.kind is EventKind.PROGRAM_FINISHED:
            self.programs.pop(event.program, None)
        elif event.kind is EventKind.CALL_QUEUED:
            self.program(event.program).calls[event.call] = CallClock(event.program, event.at)
            self.waiting += 1
        elif event.kind is EventKind.CALL_ADMITTED:
            clock = self.call(event.program, event.call)
            if clock is not None and not clock.running:
                clock.waited += event.at - clock.since
                clock.since, clock.running = event.at, True
                self.waiting -= 1
        elif event.kind is EventKind.CALL_PREEMPTED or event.kind is EventKind.CALL_FINISHED:
            self._stop(event)

    def program(self, program: str) -> ProgramClock:
        """The clock of a program."""
        return self.programs.setdefault(program, ProgramClock())

    def call(self, program: str, call: str) -> CallClock | None:
        """The clock of a call under way; None if it ended or has not arrived."""
        return self.program(program).calls.get(call)

    def _stop(self, event: Event) -> None:
        program = self.program(event.program)
        clock = program.calls.get(event.call)
        if clock is None:
            return
        if clock.running:
            self.waiting += 1
        clock.served = clock.served_at(event.at)
        clock.waited = clock.waited_at(event.at)
        clock.since, clock.running = event.at, False
        if event.kind is EventKind.CALL_FINISHED:
            program.served += clock.served
            program.waited += clock.waited
            program.finished += 1
            self.waiting -= 1
            del program.calls[event.call]
