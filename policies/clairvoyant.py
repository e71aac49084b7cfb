"""Clairvoyant prefetch: a bound for predictive uploads."""

from __future__ import annotations

from collections.abc import Sequence

from tokencake.policies.api import (
    Action,
    ChainView,
    Event,
    EventKind,
    Info,
    Policy,
    Prefetch,
    Timer,
    Trigger,
    View,
)
from tokencake.policies.next_use import NextUse


class Clairvoyant(Policy):
    """Clairvoyant prefetch: KV is copied back so that it arrives just when its call does; a bound, not a system.

    Everything computed is copied to the CPU tier. A chain that has lost blocks on the GPU is fetched at

        ``return - transfer time of what is missing - transfer time of what is queued before it``

    where the return is known, so that nothing is fetched in vain or too early, and as late as it may.
    While calls wait nothing is fetched: one that returns queues behind them, and its blocks would lie idle
    meanwhile. Where it does not fetch, or memory is short, the engine loads at admission as in ``vllm-offload``.

    Assumed:
        Returns that hang on calls under way are those of :class:`~tokencake.policies.belady.Belady`. A chain
        that lacks nothing yet is looked at again half way to its return.
    """

    info = Info.ORACLE
    store_when = ("prompt", "finished")

    def __init__(self) -> None:
        self._uses = NextUse()
        self._due: dict[str, float] = {}
        self._armed: float | None = None

    def observe(self, event: Event, view: View) -> None:
        """Follow the graphs."""
        self._uses.observe(event)
        if event.kind is EventKind.CALL_ADMITTED or event.kind is EventKind.PROGRAM_FINISHED:
            for call in [call for call in self._due if call not in self._uses]:
                del self._due[call]

    def place(self, view: View, trigger: Trigger, subject: ChainView | None) -> Sequence[Action]:
        """Fetch what is due, and set a timer for what is due next."""
        if not view.cpu.capacity:
            return ()
        if trigger is Trigger.STALL and subject is not None and subject.next_calls:
            self._uses.add(subject)
        if self._armed is not None and self._armed <= view.now:
            self._armed = None
        if trigger not in (Trigger.STEP, Trigger.TIMER):
            return ()
        for chain in self._uses.update(view):
            self._plan(view, chain, chain.blocks)
        actions = self._fetch(view)
        upcoming = min(self._due.values(), default=None)
        if upcoming is not None and (self._armed is None or upcoming < self._armed):
            self._armed = upcoming
            actions.append(Timer(upcoming))
        return actions

    def _plan(self, view: View, chain: ChainView, blocks: int) -> None:
        """Note when a copy of ``blocks`` must start."""
        at_s = self._uses.at_s(chain.call.id)
        if at_s is None or at_s <= view.now:
            self._due.pop(chain.call.id, None)
            return
        queued_s = view.link.h2d_queued_bytes / view.link.h2d_bytes_per_s
        self._due[chain.call.id] = at_s - view.cost.transfer_time(blocks, "h2d") - queued_s

    def _fetch(self, view: View) -> list[Action]:
        actions: list[Action] = []
        due_now = [call for call, at_s in self._due.items() if at_s <= view.now]
        waiting = bool(due_now) and bool(view.waiting)
        for call in due_now:
            del self._due[call]
            if call not in self._uses:
                continue
            chain = self._uses.stalls[call]
            if waiting:
                continue
            missing = chain.cpu_blocks - chain.gpu_blocks
            at_s = self._uses.at_s(call)
            self._plan(view, chain, max(0, missing))
            due = self._due.pop(call, None)
            if due is None or at_s is None:
                continue
            if due > view.now:  # less is missing than the whole chain; more may be by then
                self._due[call] = min(due, (view.now + at_s) / 2) if at_s - view.now > 1e-3 else due
            elif missing > 0:
                actions.append(Prefetch(call=call))
        return actions

    def store(self, view: View, chain: ChainView, cause: str) -> int:
        """Everything."""
        return chain.blocks
