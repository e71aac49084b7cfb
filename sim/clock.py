"""Simulated time: SimPy's clock in integer picoseconds, and the order of simultaneous events."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

import simpy
from simpy.events import Event


class Priority(IntEnum):
    """Order of events at the same time; ties end in creation order (SimPy's event counter)."""

    STEP_END = 0
    TRANSFER = 1
    TOOL = 2
    ARRIVAL = 3
    TIMER = 4
    STEP = 5


class Alarm(Event):
    """Calls a function once, after a delay.

    SimPy's ``Timeout`` with a chosen priority among simultaneous events, and without a process: one
    event a step is what makes a run of ten thousand calls take a second.
    """

    def __init__(
        self,
        env: simpy.Environment,
        delay: int,
        priority: Priority,
        call: Callable[..., None],
        *args: Any,
    ):
        self.env = env
        self.callbacks = [self._ring]
        self._value = None
        self._ok = True
        self._call: Callable[..., None] | None = call
        self._args = args
        env.schedule(self, priority, delay)  # type: ignore[arg-type]

    def cancel(self) -> None:
        """Do nothing when the time comes."""
        self._call = None

    def _ring(self, _event: Event) -> None:
        if self._call is not None:
            self._call(*self._args)


def environment() -> simpy.Environment:
    """A clock that starts at integer zero."""
    return simpy.Environment(initial_time=0)
