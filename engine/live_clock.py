"""Time of a live engine: the machine's clock, what a step is measured to take, and how a run ends early."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tokencake.sim.clock import Clock
from tokencake.sim.config import NEVER, PS

PS_PER_NS = 1000


class StoppedError(Exception):
    """The user wants the run to end; what is finished is kept."""


class LiveClock(Clock):
    """The simulator's clock, in step with the machine's if it is ``paced``.

    Attributes:
        stop: Set it to end the run at the next event or step.
    """

    def __init__(self, *, paced: bool):
        super().__init__()
        self.stop = threading.Event()
        self.paced = paced
        self._origin_ns = time.perf_counter_ns()

    def start(self) -> None:
        """Time zero is now."""
        self._origin_ns = time.perf_counter_ns()

    def wall_ps(self) -> int:
        """Picoseconds of the machine's clock since time zero."""
        return (time.perf_counter_ns() - self._origin_ns) * PS_PER_NS

    def step(self) -> None:
        """Let the next event happen, when its time has come."""
        self.wait(self.coming_ps)
        super().step()

    def wait(self, until_ps: int) -> None:
        """Sleep until a time, if the clock is paced.

        Raises:
            StoppedError: `stop` is set.
        """
        if self.paced and until_ps < NEVER:
            while (left := until_ps - self.wall_ps()) > 0 and not self.stop.is_set():
                self.stop.wait(min(left / PS, 1.0))
        if self.stop.is_set():
            raise StoppedError


class Meter:
    """Wall and CPU time of what is measured with it."""

    def __init__(self) -> None:
        self._wall = self._cpu = 0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time is added up from now on."""

        def measured(*args: Any, **kwargs: Any) -> Any:
            wall, cpu = time.perf_counter_ns(), time.process_time_ns()
            try:
                return function(*args, **kwargs)
            finally:
                self._wall += time.perf_counter_ns() - wall
                self._cpu += time.process_time_ns() - cpu

        return measured

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done here, inside of something that is measured, does not count."""
        wall, cpu = time.perf_counter_ns(), time.process_time_ns()
        try:
            yield
        finally:
            self._wall -= time.perf_counter_ns() - wall
            self._cpu -= time.process_time_ns() - cpu

    def take_ns(self) -> tuple[int, int]:
        """Wall and CPU time so far; starts again at zero."""
        taken = self._wall, self._cpu
        self._wall = self._cpu = 0
        return taken


@contextmanager
def stopping(clock: LiveClock) -> Iterator[None]:
    """Stop a clock at the first SIGINT; a second one is whoever's it was before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:  # noqa: ARG001
        clock.stop.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
