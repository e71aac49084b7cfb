"""CONCUR (arXiv 2601.22705): a congestion window for agents, driven by usage and hit rate of the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tokencake.policies.api import (
    Action,
    CallView,
    ChainView,
    Event,
    Info,
    Need,
    Park,
    Policy,
    Timer,
    Trigger,
    Unpark,
    Verdict,
    View,
    stock_admit,
)
from tokencake.policies.programs import Programs, Standing


class Concur(Policy):
    """CONCUR: lets a window of programs run, which grows by steps and is cut when the cache thrashes.

    **Window** (arXiv 2601.22705, abstract: admission of agents as congestion control, by usage and hit
    rate of the cache). Every ``interval_s``, with ``usage`` the part of GPU blocks that hold something and
    ``hits`` the part of their input that calls after the first of their program found on the GPU since the
    last look:

        ``window = max(1, window * decrease)``  if ``usage >= high_usage`` and ``hits < low_hits``
        ``window = window + increase``  otherwise, if somebody is held back

    At most ``window`` programs run. A new one beyond that waits; when the window shrinks, the latest ones
    pause when their next call ends. Earliest arrival first.

    Assumed:
        Only the abstract was read: additive increase, multiplicative decrease and the two signals are
        the paper's, all constants and the rule above are ours. A full cache alone is no congestion, since
        an idle cache stays full. Without a returning call since the last look the window is not cut.

    Args:
        start: Window at the beginning, in programs.
        increase: Programs by which it grows at a look.
        decrease: Factor by which it is cut.
        high_usage: Usage from which a low hit rate means congestion.
        low_hits: Hit rate below which the cache thrashes.
        interval_s: Seconds between two looks.
    """

    info = Info.NONE
    together: ClassVar = {"place": ("admit", "the hit rate is measured at admission")}

    def __init__(
        self,
        *,
        start: int = 8,
        increase: int = 1,
        decrease: float = 0.5,
        high_usage: float = 0.9,
        low_hits: float = 0.7,
        interval_s: float = 5.0,
    ) -> None:
        for name, value in (("start", start), ("increase", increase)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if not 0 < decrease < 1:
            raise ValueError(f"decrease must be > 0 and < 1, got {decrease}")
        for name, share in (("high_usage", high_usage), ("low_hits", low_hits)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be >= 0 and <= 1, got {share}")
        if not interval_s > 0:
            raise ValueError(f"interval_s must be > 0, got {interval_s}")
        self.window = float(start)
        self.increase = increase
        self.decrease = decrease
        self.high_usage = high_usage
        self.low_hits = low_hits
        self.interval_s = interval_s
        self._programs = Programs()
        self._found = self._wanted = 0
        self._ticking = False

    def observe(self, event: Event, view: View) -> None:
        """Follow the programs."""
        self._programs.observe(event)

    def admit(self, view: View, call: CallView, need: Need) -> Verdict:
        """Stock vLLM's answer; what a returning call finds is counted when it starts."""
        verdict = stock_admit(need)
        if verdict is Verdict.ADMIT and not call.preemptions and self._programs.standing(call.program.id).served:
            self._found += need.gpu_hit
            self._wanted += need.gpu_hit + need.full
        return verdict

    def place(self, view: View, trigger: Trigger, subject: ChainView | None) -> Sequence[Action]:
        """Hold programs back, let them go, and look at the cache every interval."""
        if trigger is Trigger.TIMER:
            self._ticking = False
            self._adapt(view)
            return [*self._fill(), *self._tick(view)]
        if trigger is Trigger.STEP:
            return self._fill()
        if subject is None:
            return ()
        program = self._programs.standing(subject.call.program.id)
        if trigger is Trigger.QUEUED:
            actions = self._tick(view)
            if program.calls == 1 and len(self._active()) > self.window:
                actions.append(self._park(program, view.now))
            return actions
        if trigger is Trigger.STALL:
            active = self._active()
            if len(active) > self.window and program in active[int(self.window) :]:
                return [self._park(program, view.now)]
        return ()

    def _active(self) -> list[Standing]:
        return [p for p in self._programs.under_way.values() if p.paused_since is None]

    def _park(self, program: Standing, now: float) -> Action:
        program.paused_since = now
        return Park(program.id)

    def _tick(self, view: View) -> list[Action]:
        if self._ticking or not self._programs.under_way:
            return []
        self._ticking = True
        return [Timer(view.now + self.interval_s)]

    def _adapt(self, view: View) -> None:
        usage = 1 - (view.gpu.free - view.gpu.cached) / view.gpu.capacity
        if usage >= self.high_usage and self._wanted and self._found < self.low_hits * self._wanted:
            self.window = max(1.0, self.window * self.decrease)
        elif len(self._active()) < len(self._programs.under_way):
            self.window += self.increase
        self._found = self._wanted = 0

    def _fill(self) -> list[Action]:
        free = int(self.window) - len(self._active())
        actions: list[Action] = []
        for program in self._programs.under_way.values():
            if free <= 0:
                break
            if program.paused_since is not None:
                program.paused_since = None
                actions.append(Unpark(program.id))
                free -= 1
        return actions
