"""Belady's rule on chains: a bound for eviction orders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

from tokencake.policies.api import Action, CallView, ChainView, Event, Info, Policy, Trigger, View
from tokencake.policies.next_use import NextUse

_ENDED, _UNKNOWN = float("-inf"), -1e300


class Belady(Policy):
    """Belady's heuristic: the cached chain that is needed latest goes first, with the truth about tools.

    A chain is needed when the first call that continues it arrives: tools that run end when they
    will, other nodes before it take their true time from now on. Among calls that wait already, the one that
    arrived first is served first. Chains of programs that have ended go first, then those that nothing
    continues.
    ``weight=none`` evicts the furthest next use. ``weight=cost`` evicts the least
    ``prefill time of the chain / time to its next use``.

    No proof of optimality: blocks of a chain cost more the deeper they lie, a head is shared by many
    chains, and the time of the next use depends on the policy itself.

    Assumed:
        A call that has not ended takes its true output at the pace of a decode step over what runs and is
        held now. Next uses are looked at again when something happens in the program.

    Not expressed:
        A next use by content rather than by graph: a prompt that calls share although none continues the
        other counts for none of them. Where that is the main reuse, this is no bound.

    Cost:
        With ``weight=cost`` ranks change with time, so the simulator asks in every step.

    Args:
        weight: ``none`` for the furthest next use, ``cost`` for the least cost a second.
        tiers: ``gpu``, or ``both`` to rank the CPU tier, too.
    """

    info = Info.ORACLE
    together: ClassVar = {"evict_order": ("place", "next uses are found where the stalls are seen")}

    def __init__(self, *, weight: Literal["none", "cost"] = "none", tiers: Literal["gpu", "both"] = "gpu") -> None:
        self.weight = weight
        self.tiers = tiers
        self._uses = NextUse()
        self._costs: dict[str, float] = {}

    def observe(self, event: Event, view: View) -> None:
        """Follow the graphs."""
        self._uses.observe(event)

    def place(self, view: View, trigger: Trigger, subject: ChainView | None) -> Sequence[Action]:
        """Find next uses; decides nothing."""
        if trigger is Trigger.STALL and subject is not None and subject.next_calls:
            self._uses.add(subject)
            if self.weight == "cost":
                self._costs[subject.call.id] = view.cost.prefill_time(subject.blocks * view.block_size)
        elif trigger is Trigger.STEP:
            self._uses.update(view)
            for call in [call for call in self._costs if call not in self._uses]:
                del self._costs[call]
        return ()

    def evict_order(self, view: View, tier: str) -> Callable[[CallView], object] | None:
        """The furthest next use, or the least cost a second, first."""
        if tier != "gpu" and self.tiers != "both":
            return None
        return lambda call: self._key(view, call)

    def _key(self, view: View, call: CallView) -> float:
        at_s = self._uses.at_s(call.id)
        if at_s is None:
            return _UNKNOWN if self._uses.under_way(call.program.id) else _ENDED
        if self.weight == "none":
            return -at_s
        return self._costs[call.id] / max(at_s - view.now, 1e-6)

    def next_change(self, view: View) -> tuple[float | None, int | None] | None:
        """Every step, with ``weight=cost``."""
        return (None, view.step + 1) if self.weight == "cost" and len(self._uses) else None
