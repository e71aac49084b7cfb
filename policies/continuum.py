"""Continuum (arXiv 2511.02230): a time to live for the KV of a call whose tool runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from tokencake.policies.api import (
    Action,
    CallView,
    ChainView,
    Event,
    EventKind,
    Info,
    Keep,
    Policy,
    Trigger,
    View,
)
from tokencake.policies.arrivals import Age, Arrivals
from tokencake.policies.durations import EVERY_TOOL, ToolHistory, foreseen
from tokencake.policies.returns import Pins, tools_ended

SLACK_S = 1e-9
"""A pin outlives its time to live by this much, so that a tool that takes exactly as long finds it."""


class Continuum(Policy):
    """Continuum: keeps a stalled call's KV for a time to live that weighs reload and queueing against memory.

    **At a call's end** that starts tool ``f`` (arXiv 2511.02230 v6, from notes), its KV is kept for

        ``tau* = argmax over tau in {0} and history[f] of  P_f(T_int <= tau) * (T * eta + Reload) - tau``

    ``T``: average queueing delay per unit of context (the share of the GPU tier that a call's input
    takes), over all admissions. ``eta = -Corr(k, N - k)`` over the calls ``k = 1..N`` of the programs
    that have ended: how much being further along means being nearer to the end. ``Reload``: time to
    compute the chain again, or to copy what the CPU tier has of it. ``P_f``: measured durations of
    the tool; of all tools while it has fewer than ``samples``; while these are too few as well, an
    exponential with their mean, for which ``tau* = max(0, ln(B / mean) * mean)`` where ``B`` is the
    bracket. At an information level that foresees single durations, ``P_f`` is a step there.

    **Queue**: preempted calls, then calls whose predecessor's KV is kept, then by arrival of the
    program. The victim is the running call of the latest program. **A pin ends** with the admission of the
    next call or with its time, but not while its next call waits (the authors' early code). **Nothing
    can run**: pins of the latest programs are dropped, until the first waiting call has room.

    Assumed:
        How ``T`` is measured ("average wait per unit context"): summed waits over summed shares. The
        holding cost is memory share times time and the formula above has been divided by the share.
        With several tools after one call, the longest time to live, until the last of them has ended.
        Without tools between two calls nothing is kept. ``eta`` until a program has ended, and the mean of
        the exponential until a tool has ended, are parameters. Durations older than the last ``window`` are forgotten.

    Not expressed:
        Of the authors' early code: shell calls keyed by their first word (a trace names its tools), and that a
        program's last call is never the victim.

    Args:
        samples: Measured durations of a tool from which its own distribution is used (the paper's K).
        window: Durations remembered of each tool, and of all together.
        prior_s: Mean tool duration assumed before the first tool ends, in seconds.
        prior_eta: ``eta`` assumed before the first program ends.
    """

    better_with: ClassVar = {
        "place": (
            "order",
            "KV is kept until its next call starts, which another order may put off",
        )
    }

    def __init__(self, *, samples: int = 100, window: int = 500, prior_s: float = 1.0, prior_eta: float = 1.0) -> None:
        if not 0 < samples <= window:
            raise ValueError(f"samples must be > 0 and <= window ({window}), got {samples}")
        if not prior_s > 0:
            raise ValueError(f"prior_s must be > 0, got {prior_s}")
        if not -1 <= prior_eta <= 1:
            raise ValueError(f"prior_eta must be >= -1 and <= 1, got {prior_eta}")
        self.samples = samples
        self.prior_s = prior_s
        self._history = ToolHistory(window)
        self._turns = Turns(prior_eta)
        self._pins = Pins()
        self._arrivals = Arrivals()
        self._wait_s = self._share = 0.0
        self._queued: dict[str, tuple[float, float]] = {}

    # -- learning -----------------------------------------------------------------------------------

    def observe(self, event: Event, view: View) -> None:
        """Learn durations, waits and turns; follow the pins."""
        self._history.observe(event)
        self._turns.observe(event)
        self._pins.observe(event)
        self._arrivals.observe(event)
        if event.kind is EventKind.CALL_ADMITTED and event.call in self._queued:
            arrival, share = self._queued.pop(event.call)
            self._wait_s += event.at - arrival
            self._share += share

    # -- deciding -----------------------------------------------------------------------------------

    def order(self, view: View, waiting: Sequence[CallView]) -> Sequence[CallView]:
        """Preempted calls, calls whose KV is kept, the rest; each by arrival of program and call."""
        return sorted(waiting, key=self._rank)

    def _rank(self, call: CallView) -> tuple[bool, bool, Age]:
        return not call.preemptions, not self._pins.awaits(call.id), self._arrivals.age(call)

    def victim(self, view: View, need: int, for_call: CallView) -> CallView:
        """The running call of the latest program."""
        return max(view.running, key=self._arrivals.age)

    def place(self, view: View, trigger: Trigger, subject: ChainView | None) -> Sequence[Action]:
        """Keep at a call's end; keep on while the next call waits; drop the latest under pressure."""
        if trigger is Trigger.PRESSURE:
            return self._relieve(view)
        if subject is None:
            return ()
        if trigger is Trigger.QUEUED:
            blocks = -(-subject.call.prompt_tokens // view.block_size)
            self._queued[subject.call.id] = (subject.call.arrival_s, blocks / view.gpu.capacity)
        elif trigger is Trigger.RETURN and subject.call.id in self._pins and tools_ended(subject):
            return (Keep(),)
        elif trigger is Trigger.STALL and subject.next_calls:
            live = self.time_to_live(view, subject)
            if live > 0:
                self._pins.add(subject)
                return (Keep(view.now + live + SLACK_S),)
        return ()

    def _relieve(self, view: View) -> Sequence[Action]:
        """Unpin the latest programs until the first waiting call has room."""
        waiting = self.order(view, view.waiting)
        kept = [self._pins[name] for name in self._pins]
        latest_first = sorted(kept, key=lambda chain: self._arrivals.age(chain.call), reverse=True)
        return self._pins.make_room(view, waiting[0], latest_first) if waiting else ()

    # -- the time to live -------------------------------------------------------------------------------

    def time_to_live(self, view: View, chain: ChainView) -> float:
        """``tau*`` of a chain whose tools are about to start, in seconds; 0 is not to keep it."""
        benefit = self._benefit(view, chain)
        program = chain.call.program
        best = 0.0
        if benefit > 0:
            for tool in chain.next_tools:
                expected = foreseen(self.info, view, program, tool.node)
                if expected is not None:
                    best = max(best, expected if benefit > expected else 0.0)
                elif self.info is Info.HISTORY:
                    best = max(best, self._learned(tool.tool, benefit))
        return best

    def _benefit(self, view: View, chain: ChainView) -> float:
        """``T * eta + Reload``, in seconds."""
        stored = chain.cpu_blocks if view.cpu.capacity else 0
        missing = (chain.blocks - stored) * view.block_size
        reload_s = view.cost.prefill_time(missing, stored * view.block_size) if missing > 0 else 0.0
        if stored:
            reload_s += view.cost.transfer_time(stored, "h2d")
        wait_s = self._wait_s / self._share if self._share else 0.0
        return wait_s * self._turns.eta + reload_s

    def _learned(self, tool: str, benefit: float) -> float:
        for name in (tool, EVERY_TOOL):
            durations = self._history.sorted(name)
            if len(durations) >= self.samples:
                return best_time_to_live(durations, benefit)
        durations = self._history.sorted(EVERY_TOOL)
        mean = sum(durations) / len(durations) if durations else self.prior_s
        return max(0.0, math.log(benefit / mean) * mean) if mean > 0 else 0.0


class Turns:
    """How much a program that is further along is nearer to its end: ``eta = -Corr(k, N - k)``.

    Args:
        prior: ``eta`` before it is defined.
    """

    def __init__(self, prior: float):
        self._prior = prior
        self._finished: dict[str, int] = {}
        self._sums = [0.0] * 6

    def observe(self, event: Event) -> None:
        """Count calls, and add a program's turns when it ends."""
        if event.kind is EventKind.CALL_FINISHED:
            self._finished[event.program] = self._finished.get(event.program, 0) + 1
        elif event.kind is EventKind.PROGRAM_FINISHED:
            last = self._finished.pop(event.program, 0)
            for k in range(1, last + 1):
                left = last - k
                for i, value in enumerate((1, k, left, k * k, left * left, k * left)):
                    self._sums[i] += value

    @property
    def eta(self) -> float:
        """Between -1 and 1."""
        n, x, y, xx, yy, xy = self._sums
        spread = (n * xx - x * x) * (n * yy - y * y)
        return -(n * xy - x * y) / math.sqrt(spread) if spread > 0 else self._prior


def best_time_to_live(durations: Sequence[float], benefit: float) -> float:
    """The duration that maximizes ``P(T <= tau) * benefit - tau``; 0 if none is worth it."""
    each = benefit / len(durations)
    best, best_value = 0.0, 0.0
    for count, tau in enumerate(durations, 1):
        value = count * each - tau
        if value > best_value:
            best, best_value = tau, value
    return best
