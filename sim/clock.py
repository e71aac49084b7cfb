"""Simulated time: SimPy's clock in integer picoseconds, and the order of simultaneous events."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

import simpy
from simpy.core import Infinity
from simpy.events import Event

from tokencake.sim.config import NEVER


class Priority(IntEnum):
    """Order of events at the same time; ties end in creation order (SimPy's event counter)."""

    TRANSFER = 0
    TOOL = 1
    ARRIVAL = 2
    TIMER = 3


class Clock:
    """Time, and what happens when.

    Between two events nothing but the engine's own steps can happen, so the engine may take those without
    an event for each and set :attr:`now_ps` itself; it must stay before :attr:`coming_ps`.

    Attributes:
        now_ps: Current time in picoseconds, from zero.
        coming_ps: When the next event happens; `NEVER` if none is left.
    """

    __slots__ = ("_env", "coming_ps", "now_ps")

    def __init__(self) -> None:
        self._env = simpy.Environment(initial_time=0)
        self.now_ps = 0
        self.coming_ps = NEVER

    def at(self, at_ps: int, priority: Priority, call: Callable[..., None], *args: Any) -> Alarm:
        """Call a function once, at a time that has not passed."""
        if at_ps < self.coming_ps:
            self.coming_ps = at_ps
        return Alarm(self, self._env, at_ps, priority, call, args)

    def step(self) -> None:
        """Let the next event happen."""
        env = self._env
        env.step()
        coming = env.peek()
        self.coming_ps = NEVER if coming == Infinity else int(coming)


class Alarm(Event):
    """Calls a function once, at a time.

    SimPy's ``Timeout`` with a chosen priority among simultaneous events, and without a process: one
    event a step is what makes a run of ten thousand calls take a second.
    """

    def __init__(
        self,
        clock: Clock,
        env: simpy.Environment,
        at_ps: int,
        priority: Priority,
        call: Callable[..., None],
        args: tuple[Any, ...],
    ):
        self.env = env
        self.callbacks = [self._ring]
        self._value = None
        self._ok = True
        self._clock = clock
        self._at_ps = at_ps
        self._call: Callable[..., None] | None = call
        self._args = args
        env.schedule(self, priority, at_ps - env.now)  # type: ignore[arg-type]

    def cancel(self) -> None:
        """Do nothing when the time comes."""
        self._call = None

    def _ring(self, _event: Event) -> None:
        if self._call is not None:
            self._clock.now_ps = self._at_ps
            self._call(*self._args)
