"""ThunderAgent (arXiv 2602.13692): whole programs are paused so that the contexts of the others fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tokencake.policies.api import (
    Action,
    ChainView,
    Event,
    Info,
    Park,
    Policy,
    Timer,
    Trigger,
    Unpark,
    View,
)
from tokencake.policies.programs import Programs, Standing

HEADROOM = 100
"""Tokens reserved for each program that may run (``BUFFER_PER_PROGRAM``)."""


class ThunderAgent(Policy):
    """ThunderAgent: pauses whole programs while the contexts of all exceed memory, smallest first.

    **Load** (arXiv 2602.13692; authors' code, ``scheduler/router.py``), in tokens over programs that are not
    paused:

        ``sum of c over REASONING + sum of c * f(t) over ACTING - shared + 100 * programs``

    REASONING has a call that waits or runs, ACTING has tools only; ``c`` is a program's context,
    ``t`` the seconds since it acts, ``f(t) = 2**-t``, and
    ``shared = max(0, sum of c over REASONING - tokens held on the GPU)``.

    **Every** ``interval_s``: first *resume* paused programs while they fit, in the order: a call waits
    and it has run before; new; acting; each smallest first; and any that has been paused for
    ``patience_s``. Then, over capacity, *pause*: acting programs, smallest first, at once; then reasoning
    ones, smallest first, marked to pause when their next call ends. A paused program starts no call; its KV is
    not held and ages in the free list.

    Assumed:
        A context is the input of a waiting or running call, and grows by its answer when that has ended,
        which is when the authors' router learns it; of several calls under way it is their sum. A new
        program starts at once if it fits and nobody is paused. The decay counts in the load, as in the
        paper (the code has it off by default, and uses it for resuming only): ``decay=false``. For
        ``shared`` only programs with a running call count: what still waits holds nothing. If no program
        may run, the first in the order of resuming does, whatever its size.

    Not expressed:
        Placement on several backends (best fit decreasing): there is one engine, and what was chosen by
        cumulative fit fits. Estimating tokens from characters: lengths are known.

    Args:
        interval_s: Seconds between two looks.
        decay: Whether the context of an acting program counts less with time.
        patience_s: Seconds after which a paused program is resumed in any case.
    """

    info = Info.NONE

    def __init__(self, *, interval_s: float = 5.0, decay: bool = True, patience_s: float = 1800.0) -> None:
        for name, value in (("interval_s", interval_s), ("patience_s", patience_s)):
            if not value > 0:
                raise ValueError(f"{name} must be > 0, got {value}")
        self.interval_s = interval_s
        self.decay = decay
        self.patience_s = patience_s
        self._programs = Programs()
        self._ticking = False

    def observe(self, event: Event, view: View) -> None:
        """Follow the programs."""
        self._programs.observe(event)

    def place(self, view: View, trigger: Trigger, subject: ChainView | None) -> Sequence[Action]:
        """Gate new programs, pause marked ones at their boundary, and look around every interval."""
        if trigger is Trigger.TIMER:
            self._ticking = False
            return [*self._resume(view), *self._pause(view), *self._tick(view)]
        if subject is None:
            return ()
        if trigger is Trigger.QUEUED:
            program = self._programs.queued(subject)
            actions = self._tick(view)
            if program.calls == 1 and self._must_wait(view, program):
                actions.append(self._park(program, view.now))
            return actions
        if trigger is Trigger.STALL:
            program = self._programs.stalled(subject)
            if program.marked:
                return [self._park(program, view.now)]
        return ()

    def _tick(self, view: View) -> list[Action]:
        if self._ticking or not self._programs.under_way:
            return []
        self._ticking = True
        return [Timer(view.now + self.interval_s)]

    def _park(self, program: Standing, now: float) -> Action:
        program.marked = False
        program.paused_since = now
        return Park(program.id)

    def _must_wait(self, view: View, program: Standing) -> bool:
        others = [p for p in self._programs.under_way.values() if p is not program]
        if any(p.paused_since is not None for p in others):
            return True
        return bool(others) and self._room(view, self._active()) < 0

    def _active(self) -> list[Standing]:
        return [p for p in self._programs.under_way.values() if p.paused_since is None]

    def _room(self, view: View, active: Iterable[Standing]) -> float:
        """Capacity less load, in tokens."""
        load, reasoning = 0.0, 0
        for program in active:
            load += self._weight(program, view.now)
            if program.running:
                reasoning += program.context
        size = view.block_size
        shared = max(0, reasoning - (view.gpu.capacity - view.gpu.free) * size)
        return view.gpu.capacity * size - load + shared

    def _weight(self, program: Standing, now: float) -> float:
        context = float(program.context)
        if self.decay and program.acting_since is not None:
            context *= 2.0 ** -(now - program.acting_since)
        return context + HEADROOM

    def _resume(self, view: View) -> list[Action]:
        paused = [p for p in self._programs.under_way.values() if p.paused_since is not None]
        if not paused:
            return []
        active = self._active()
        room = self._room(view, active)
        chosen: list[Standing] = []
        for program in sorted(paused, key=lambda p: (_urgency(p), p.context, p.order)):
            assert program.paused_since is not None
            cost = program.context + HEADROOM
            alone = not active and not chosen
            if cost <= room or alone or view.now - program.paused_since >= self.patience_s:
                room -= cost
                chosen.append(program)
        for program in chosen:
            program.paused_since = None
        return [Unpark(program.id) for program in chosen]

    def _pause(self, view: View) -> list[Action]:
        active = [p for p in self._active() if not p.marked]
        room = self._room(view, active)
        actions: list[Action] = []
        for program in sorted(active, key=lambda p: (p.reasoning, p.context, p.order)):
            if room >= 0 or len(active) == 1:
                break
            room += self._weight(program, view.now)
            active.remove(program)
            if program.reasoning:
                program.marked = True
            else:
                actions.append(self._park(program, view.now))
        return actions


def _urgency(program: Standing) -> int:
    """Order of resuming: a call waits and it has run before, new, acting."""
    if not program.reasoning:
        return 2
    return 0 if program.served else 1
