"""TokenCake's Spatial Scheduler: who goes first, and what each agent type may hold of GPU memory.

Priority: paper (v2), eq. 3 and 4. Partition: Algorithm 2, with the constants and the refinement of the shares
that survive in the authors' 2026 port (:class:`~tokencake.policies.tokencake_types.PartitionRule`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tokencake.policies.api import Action, CallView, Event, EventKind, Need, Reserve, Verdict, View
from tokencake.policies.tokencake_metadata import metadata
from tokencake.policies.tokencake_types import Partition, PartitionRule, TypeRank

LEAST_WAIT_S = 0.01
"""Guards the logarithm of eq. 4."""


@dataclass(frozen=True, slots=True)
class SpatialRule:
    """Constants of the Spatial Scheduler; see the parameters of ``tokencake``."""

    static_weight: float
    period: int
    dynamic: bool
    static_ratio: float
    lend: bool
    partition: PartitionRule


def dynamic_priority(wait_s: float, tokens: int) -> float:
    """Eq. 4, as published: ``w ln(tokens / w)`` of a wait ``w`` in seconds and a request's prompt and output tokens.

    It rises with the wait up to ``tokens / e`` seconds, faster the longer the request, falls after that, and is below 0
    once the wait has more seconds than the request has tokens.

    >>> [round(dynamic_priority(w, 9000), 1) for w in (1.0, 10.0, 100.0)]
    [9.1, 68.0, 450.0]
    >>> [round(dynamic_priority(w, 1000), 1) for w in (100.0, 368.0, 700.0, 1000.0, 1200.0)]
    [230.3, 367.9, 249.7, 0.0, -218.8]
    """
    wait_s = max(wait_s, LEAST_WAIT_S)
    return wait_s * math.log(max(tokens, 1) / wait_s)


class Spatial:
    """State of the Spatial Scheduler.

    Attributes:
        plan: Present division of memory; its reserved types are the critical ones.
        next_partition: Step at which memory is divided anew.
        floor: Free blocks below which a call is in the way that reservations alone kept out of the last scan.
    """

    def __init__(self, rule: SpatialRule):
        self.rule = rule
        self.plan = Partition(0)
        self.next_partition = 0
        self.floor = 0
        self._ratio = rule.partition.ratio_min if rule.dynamic else rule.static_ratio
        self._static: dict[str, float] = {}
        self._waited: dict[str, float] = {}
        self._again_s: dict[str, float] = {}
        self._scores: dict[str, float] = {}
        self._order: Sequence[CallView] = ()
        self._changed = True
        self._reserved: dict[str, int] = {}
        self._lifted = False

    def observe(self, event: Event) -> None:
        """The order may change when something happens."""
        self._changed = True
        if event.kind is EventKind.CALL_FINISHED:
            self._static.pop(event.call, None)
            self._waited.pop(event.call, None)
            self._again_s.pop(event.call, None)
        elif event.kind is EventKind.CALL_PREEMPTED:
            self._again_s[event.call] = event.at
        elif event.kind is EventKind.RESERVES_LIFTED:
            self._reserved, self._lifted = {}, True
        elif event.kind is EventKind.CALL_ADMITTED:
            self._lifted = False

    # -- priority ---------------------------------------------------------------------------------

    def static_priority(self, call: CallView) -> float:
        """Eq. 3: weight times depth times out-degree in the program's graph."""
        known = self._static.get(call.id)
        if known is None:
            m = metadata(call, 0.0)
            known = self._static[call.id] = self.rule.static_weight * m.depth * m.out_degree
        return known

    def wait_s(self, call: CallView, now: float) -> float:
        """Seconds that a call has spent in the queue so far; a running one waits no longer."""
        waited = self._waited.get(call.id)
        if waited is None:
            return now - call.arrival_s
        again = self._again_s.get(call.id)
        return waited if again is None else waited + now - again

    def priority(self, call: CallView, now: float) -> float:
        """Hybrid priority: static plus dynamic."""
        tokens = call.prompt_tokens + (call.max_tokens or 0)
        return self.static_priority(call) + dynamic_priority(self.wait_s(call, now), tokens)

    def order(self, view: View, waiting: Sequence[CallView]) -> Sequence[CallView]:
        """Waiting calls by hybrid priority, as of the last event."""
        self.floor = 0
        if self._changed or len(waiting) != len(self._order):
            self._changed = False
            now = view.now
            self._order = sorted(waiting, key=lambda call: (-self.priority(call, now), call.arrival_s, call.id))
        return self._order

    # -- admission ----------------------------------------------------------------------------------

    def admit(self, view: View, call: CallView, need: Need, debt: int) -> Verdict:
        """Stock admission beside upload debt; a call that only reservations keep out is passed over."""
        taken = need.full + need.free_hits + debt
        if view.running and taken > view.gpu.free:
            return Verdict.STOP
        if not need.fits:
            if not self._reserved:
                return Verdict.STOP
            self.floor = max(self.floor, taken)
            return Verdict.SKIP
        self._waited[call.id] = max(0.0, self.wait_s(call, view.now))
        self._again_s.pop(call.id, None)
        return Verdict.ADMIT

    def victim(self, view: View) -> CallView:
        """Running calls of uncritical types go before those of critical ones, the lowest priority first."""
        now, critical = view.now, self.plan.reserved
        ranked = [
            (call.agent_type in critical, self.priority(call, now), -position, call)
            for position, call in enumerate(view.running)
        ]
        return min(ranked, key=lambda rank: rank[:3])[3]

    # -- partition -------------------------------------------------------------------------------------

    def step(self, view: View, *, resuming: bool) -> list[Action]:
        """Divide memory anew when a period is over; lend the reserves of types that nobody waits for.

        A call that resumes on resident KV holds most of what it needs: no reserve may keep it out.
        """
        if view.step >= self.next_partition:
            self.next_partition = view.step + self.rule.period
            self._divide(view)
        wanted: dict[str, int] = {} if resuming else dict(self.plan.reserved)
        if self.rule.lend:
            waiting = {call.agent_type for call in view.waiting}
            wanted = {name: blocks for name, blocks in wanted.items() if name in waiting}
        if wanted == self._reserved or self._lifted:  # lifted so that somebody can start
            return []
        self._reserved = wanted
        return [Reserve(wanted)]

    def _divide(self, view: View) -> None:
        now, total = view.now, view.gpu.capacity
        used: dict[str, int] = {}
        best: dict[str, float] = {}
        importance: dict[str, float] = {}
        running = {call.id: call for call in (*view.running, *view.loading)}
        for call in (*view.waiting, *running.values()):
            name = call.agent_type
            best[name] = max(best.get(name, 0.0), self.priority(call, now))
            importance[name] = max(importance.get(name, 0.0), call.importance)
            if call.id in running:
                used[name] = used.get(name, 0) + call.gpu_blocks
        if not best:
            return
        if self.rule.dynamic:
            self._ratio = self.rule.partition.ratio(self._ratio, 1 - view.gpu.free / total)
            self._scores |= best
        else:
            self._scores |= dict.fromkeys(best, 1.0)
            used = {}
        ranks = [
            TypeRank(name, max(score, 1e-6), importance.get(name, 0.0), used.get(name, 0))
            for name, score in self._scores.items()
        ]
        self.plan = self.rule.partition.divide(total, self._ratio, ranks)
