"""InferCept (ICML'24): keep, swap or discard the KV of a call whose tool runs, whichever wastes least."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tokencake.policies.api import (
    Action,
    Budget,
    CallView,
    ChainView,
    Event,
    EventKind,
    Keep,
    Offload,
    Policy,
    Trigger,
    Unpin,
    View,
)
from tokencake.policies.arrivals import Arrivals
from tokencake.policies.returns import Pins, tools_ended


@dataclass(slots=True)
class Intercepted:
    """A kept chain whose tool runs.

    Attributes:
        chain: Its view.
        tokens: Tokens of the call, ``C``.
        since: When the tool began, in seconds.
        ends: When it is expected to end; None where only elapsed time is known.
        prefill_s: ``T_fwd(C)``.
        swappable: The CPU tier has not refused it yet.
    """

    chain: ChainView
    tokens: int
    since: float
    ends: float | None
    prefill_s: float
    swappable: bool = True


class InferCept(Policy):
    """InferCept: min-waste handling of intercepted calls, in every iteration.

    **Waste** of an intercepted call with ``C`` tokens, in token-seconds (InferCept, ICML'24, from notes and
    the authors' code; bytes a token cancel):

        ``Preserve = T_int * C``
        ``ChunkDiscard = T_fwd(C) * C / 2 + n * T_fwd(C / n) * C_other``

    with ``n = ceil(C / (S - running))`` chunks of recomputation and ``C_other`` the tokens that others
    hold meanwhile. Each iteration, what the link moves while the forward pass runs costs nothing: kept
    calls are swapped out in descending order of ``min(Preserve, ChunkDiscard)`` until that much is on its way.
    Of the others those are kept for which ``Preserve < ChunkDiscard``, the rest is discarded. A new
    interception starts as kept.

    ``T_int`` is the time that the tool has run so far (``estimator=elapsed``, the paper's own way without
    an oracle), or what remains of its foreseen duration (``estimator=foreseen``; with
    ``policy.info=oracle`` this is the authors' code, which knows the truth).

    **Queues** are first come, first served by the arrival of the whole program, so that a returning call
    goes ahead of newer ones, and the victim is the running call of the latest program. **Budget**: an
    iteration computes at most ``S`` tokens, the saturation point.
    **Memory runs short** for running calls: kept calls are discarded first, largest waste first.

    Assumed:
        Where it is not given, ``S`` is the first power of two from 64 at which twice the tokens take at
        least 1.8 times as long (never below the number of calls that may run). Discarded KV is
        released, not wiped: vLLM may still find it. With several tools after one call, the one that
        ends last counts. A pass costs as much as a decode step over everything that is held.

    Not expressed:
        A swap covers a whole chain (the paper swaps from the back, block by block): the next one starts
        when less than an iteration's worth is on its way. Swapping in has no budget of its own: the
        engine loads at admission. Preserving part of a chain and recomputing its middle. Running calls share an
        iteration's tokens in the order of their admission, as in vLLM, not of their program's arrival.

    Args:
        estimator: ``elapsed``, or ``foreseen`` by the information level.
        saturation_tokens: ``S``, in tokens of an iteration; 0 derives it from the cost model.
    """

    offloads = True

    def __init__(self, *, estimator: Literal["elapsed", "foreseen"] = "elapsed", saturation_tokens: int = 0) -> None:
        if saturation_tokens < 0:
            raise ValueError(f"saturation_tokens must be >= 0, got {saturation_tokens}")
        self.estimator = estimator
        self._budget: Budget | None = None
        self._saturation = saturation_tokens
        self._pins = Pins()
        self._arrivals = Arrivals()
        self._kept: dict[str, Intercepted] = {}
        self._leaving: dict[str, Intercepted] = {}
        self._running: dict[str, None] = {}
        self._chunk_s: dict[int, float] = {}

    def observe(self, event: Event, view: View) -> None:
        """Follow pins and the number of running calls."""
        self._pins.observe(event)
        self._arrivals.observe(event)
        if event.kind is EventKind.CALL_ADMITTED:
            self._running[event.call] = None
        elif event.kind in (EventKind.CALL_PREEMPTED, EventKind.CALL_FINISHED):
            self._running.pop(event.call, None)
        elif event.kind is EventKind.ACTION_REFUSED and event.call in self._leaving:
            kept = self._leaving.pop(event.call)  # no room in the CPU tier: it is kept as it was
            kept.swappable = False
            self._kept[event.call] = kept
            self._pins.add(kept.chain)

    # -- queues and budget ------------------------------------------------------------------------------

    def order(self, view: View, waiting: Sequence[CallView]) -> Sequence[CallView]:
        """By arrival of the program, then of the call."""
        return sorted(waiting, key=self._arrivals.age)

    def victim(self, view: View, need: int, for_call: CallView) -> CallView:
        """The running call of the latest program."""
        return max(view.running, key=self._arrivals.age)

    def budget(self, view: View) -> Budget | None:
        """At most ``S`` tokens."""
        if self._budget is None:
            self._budget = Budget(min(view.token_budget, max(self._limit(view), view.max_running)))
        return self._budget

    def _limit(self, view: View) -> int:
        """``S``."""
        if not self._saturation:
            self._saturation = saturation(view)
        return self._saturation

    # -- interceptions ------------------------------------------------------------------------------------

    def place(self, view: View, trigger: Trigger, subject: ChainView | None) -> Sequence[Action]:
        """Keep at first; in every step swap, keep or discard by waste."""
        if trigger is Trigger.STALL and subject is not None and subject.next_tools and subject.next_calls:
            self._intercept(view, subject)
            return (Keep(),)
        if trigger is Trigger.RETURN and subject is not None and tools_ended(subject):
            self._kept.pop(subject.call.id, None)  # it stays where it is until it is served
        elif trigger is Trigger.STEP and self._kept:
            return self._decide(view)
        elif trigger is Trigger.PRESSURE:
            return self._relieve(view)
        return ()

    def next_change(self, view: View) -> tuple[float | None, int | None] | None:
        """Every step, while something is kept."""
        return (None, view.step + 1) if self._kept else None

    def _intercept(self, view: View, chain: ChainView) -> None:
        call = chain.call
        tokens = call.prompt_tokens + call.output_tokens
        ends: float | None = None
        if self.estimator == "foreseen":
            expected = [view.foresee_tool(call.program, tool.node) for tool in chain.next_tools]
            ends = view.now + max((s for s in expected if s is not None), default=0.0)
        self._pins.add(chain)
        self._kept[call.id] = Intercepted(chain, tokens, view.now, ends, view.cost.prefill_time(tokens))

    def _decide(self, view: View) -> list[Action]:
        now, size = view.now, view.block_size
        self._leaving.clear()
        held = (view.gpu.capacity - view.gpu.free) * size
        ranked: list[tuple[float, float, float, str]] = []
        for name, kept in list(self._kept.items()):
            if name not in self._pins:
                del self._kept[name]
                continue
            preserve, discard = self._wastes(view, kept, now, held)
            ranked.append((-min(preserve, discard), preserve, discard, name))
        ranked.sort()
        actions: list[Action] = []
        room = self._link_room(view, held)
        missing = len(self._running) - view.gpu.free
        for _, preserve, discard, name in ranked:
            kept = self._kept[name]
            if room > 0 and kept.swappable and view.cpu.capacity:
                room -= kept.tokens
                actions.append(Offload(call=name))
                self._leaving[name] = kept
            elif missing > 0 or preserve >= discard:
                missing -= kept.tokens // size
                actions.append(Unpin(name))
            else:
                continue
            del self._kept[name]
            self._pins.remove(name)
        return actions

    def _wastes(self, view: View, kept: Intercepted, now: float, held: int) -> tuple[float, float]:
        """Preserve and ChunkDiscard, in token-seconds."""
        tokens = kept.tokens
        duration = now - kept.since if kept.ends is None else max(0.0, kept.ends - now)
        chunk = max(1, self._limit(view) - len(self._running))
        count = math.ceil(tokens / chunk)
        part = math.ceil(tokens / count)
        seconds = self._chunk_s.get(part)
        if seconds is None:
            seconds = self._chunk_s[part] = view.cost.prefill_time(part)
        return duration * tokens, kept.prefill_s * tokens / 2 + count * seconds * max(0, held - tokens)

    def _link_room(self, view: View, held: int) -> float:
        """Tokens that the link can still take while the coming iteration computes."""
        one = view.cost.transfer_time(1, "d2h")
        if one <= 0:
            return math.inf
        bytes_per_block = one * view.link.d2h_bytes_per_s
        blocks = view.cost.step_time(max(1, len(self._running)), held) / one
        queued = (view.link.d2h_queued_bytes + view.link.h2d_queued_bytes) / bytes_per_block
        return (blocks - queued) * view.block_size

    def _relieve(self, view: View) -> Sequence[Action]:
        """Nothing can run: discard what wastes most until the first waiting call has room."""
        waiting = self.order(view, view.waiting)
        if not waiting:
            return ()
        held = (view.gpu.capacity - view.gpu.free) * view.block_size
        wastes = {n: min(self._wastes(view, k, view.now, held)) for n, k in self._kept.items() if n in self._pins}
        names = sorted(wastes, key=lambda name: -wastes[name])
        actions = self._pins.make_room(view, waiting[0], [self._kept[name].chain for name in names])
        for action in actions:
            del self._kept[action.call]
        return actions


def saturation(view: View) -> int:
    """Tokens of an iteration beyond which more tokens take proportionally more time."""
    tokens = 64
    while tokens < view.token_budget:
        if view.cost.prefill_time(2 * tokens) >= 1.8 * view.cost.prefill_time(tokens):
            return tokens
        tokens *= 2
    return view.token_budget
