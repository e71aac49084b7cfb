"""Scheduling of TokenCake's 2026 port: who is admitted, and in which order.

Facts: the authors' repository (``scheduling.py``). Scores and commitments are in
:mod:`~tokencake.policies.tokencake_calls`, reservations in :mod:`~tokencake.policies.tokencake_ledger`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokencake.policies.api import CallView, Event, EventKind, Need, Verdict, View, stock_admit
from tokencake.policies.tokencake_calls import Calls, Tracked
from tokencake.policies.tokencake_ledger import Ledger, Payment
from tokencake.policies.tokencake_reservations import Reservations
from tokencake.policies.tokencake_types import PartitionRule, TypeHistories

TOOL_EVENTS = (EventKind.TOOL_STARTED, EventKind.TOOL_FINISHED)
"""Events that take and free no memory by themselves; placement may answer with actions that do."""


@dataclass(frozen=True, slots=True)
class SchedulingRule:
    """Constants of the scheduler; see the parameters of ``tokencake-upstream``."""

    partition: PartitionRule
    partition_period: int
    commit: str
    reserve_generation: bool
    inherit: bool
    affinity_band: int
    borrow_margin: int
    victim_band: int


class Scheduling:
    """State of the scheduler; :class:`~tokencake.policies.tokencake_upstream.TokencakeUpstream` asks it.

    Attributes:
        types: Histories of agent types.
        ledger: Charges under the present partition.
        reservations: Makes the partition.
        calls: Live calls.
        denied: Admission attempts that failed, by reason; a jump of the host counts every step in it.
    """

    def __init__(self, rule: SchedulingRule):
        self.rule = rule
        self.types = TypeHistories()
        self.ledger = Ledger()
        self.calls = Calls(commit=rule.commit, reserve_generation=rule.reserve_generation, inherit=rule.inherit)
        self.denied = {"capacity": 0, "reservation": 0}
        self.reservations = Reservations(rule.partition, rule.partition_period, self.types, self.calls, self.ledger)
        self._completions = 0
        self._changed = True
        self._touched = False
        self._arrived: dict[str, None] = {}
        self._gated_out = False
        self._offered = 0
        self._refused: dict[str, str] = {}
        self._repeats = 0
        self._borrowing: dict[str, None] = {}
        self._scan_step = -1
        self._offers = True
        self._uncommitted = 0
        self._waiting_best: dict[str, int] = {}
        self._prefilling: list[CallView] = []

    # -- what happens ---------------------------------------------------------------------------

    def observe(self, event: Event, view: View) -> None:
        """Follow calls from admission to end; note what may let a denied call start."""
        if event.kind is EventKind.CALL_QUEUED:
            self._arrived[event.call] = None
        elif event.kind in TOOL_EVENTS:
            self._touched = True
        else:
            self._changed = True
        tracked = self.calls.get(event.call)
        if tracked is None:
            return
        if event.kind is EventKind.CALL_ADMITTED:
            self._enter(tracked, event.at)
        elif event.kind is EventKind.CALL_PREEMPTED:
            self._leave(event.call)
            self.types.of(tracked.type).preemptions += 1
            tracked.gate = (self._completions, self.calls.uncommitted(view))
        elif event.kind is EventKind.CALL_FINISHED:
            self._leave(event.call)
            self._completions += 1
            self.calls.forget(event.call)
            since = event.at if tracked.admitted_s is None else tracked.admitted_s
            self.types.completed(tracked.type, tracked.call.output_tokens, event.at - since)

    def _enter(self, t: Tracked, now: float) -> None:
        need = t.need
        if need is None:  # another policy decides on admissions
            return
        self.types.admitted(
            t.type, t.meta, t.call.prompt_tokens, max(0.0, now - t.started_s), first=t.admitted_s is None
        )
        if t.admitted_s is None:
            t.admitted_s = now
        t.gate = None
        self.calls.admitted[t.call.id] = t
        self._prefilling.append(t.call)
        self._uncommitted -= t.demand
        newly = need.free_hits + need.chunk
        busy = need.gpu_hit - need.free_hits
        self.ledger.admit(t.call.id, t.call.program.id, t.type, busy, newly, t.payment)

    def _leave(self, call_id: str) -> None:
        if self.calls.admitted.pop(call_id, None) is not None:
            self.ledger.end(call_id)

    # -- order --------------------------------------------------------------------------------------

    def order(self, view: View, waiting: Sequence[CallView]) -> Sequence[CallView]:
        """Waiting calls by effective score; by cache affinity within score bands when memory is committed.

        While nothing happens, admitted calls only take what they have been committed, so a call that was
        denied stays denied: nobody is offered until something happens, and nobody for a new call that has no room.
        """
        stuck = self._stuck(view)
        self._offers = not stuck
        self._skip_to(view.step)
        self._scan_step = view.step
        if stuck:
            self._deny_again(view)
            return ()
        self._settle(view)
        tracked = [self.calls.track(call) for call in waiting]
        grouped = [t for t in self.calls.admitted.values() if t.group is not None]
        self.calls.score(view, [*tracked, *grouped])
        best: dict[str, int] = {}
        for t in tracked:
            best[t.type] = max(best.get(t.type, t.effective), t.effective)
        self._waiting_best = best
        tracked.sort(key=_rank)
        band = self.rule.affinity_band
        if band and self._uncommitted <= (1 - self.rule.partition.usage_high) * view.gpu.capacity:
            tracked = self._by_affinity(view, tracked, band)
        self._offered = len(tracked)
        return [t.call for t in tracked]

    def next_scan(self, view: View) -> int:
        """Next step in which an answer may change without an event: if only from all calls, denied, to none."""
        return self.reservations.next_step if self._stuck(view) and not self._offers else view.step + 1

    def _stuck(self, view: View) -> bool:
        """Whether a scan would deny every waiting call."""
        if view.step >= self.reservations.next_step or not self._repeats_itself(view):
            return False
        return not any(self._has_room(view, call) for call in self._new(view))

    def hopeful(self, view: View) -> Sequence[CallView]:
        """Waiting calls, less those of which it is known that they do not fit beside all commitments."""
        return self._new(view) if not self._gated_out and self._repeats_itself(view) else view.waiting

    def _repeats_itself(self, view: View) -> bool:
        """Whether the last scan denied every call that it offered, and would again: nothing has become free since."""
        if self._changed or self._offered != len(self._refused) or not self.calls.admitted or self._computing():
            return False
        return not self._touched or self.calls.uncommitted(view) <= self._uncommitted

    def _new(self, view: View) -> Sequence[CallView]:
        """Calls that arrived after the last scan."""
        return [call for call in view.waiting if call.id in self._arrived] if self._arrived else ()

    def _has_room(self, view: View, call: CallView) -> bool:
        """Whether a new call may fit beside all commitments."""
        need = view.need(call)
        return need is None or self.calls.demand(view, self.calls.track(call), need) <= self._uncommitted

    def _deny_again(self, view: View) -> None:
        """What a scan does that denies everybody, those included that arrived after the last one."""
        if self._touched or self._arrived:
            self._charge(view)
            self._touched = False
        if self._arrived:
            self._count_repeats()
            for call in self._new(view):
                self._refused[call.id] = self.calls.track(call).type
            self._offered = len(self._refused)
            self._arrived = {}
        self._repeats += 1

    def _computing(self) -> bool:
        """Whether an admitted call's prompt is not computed yet: what it adds to the cache may be a hit."""
        self._prefilling = [
            c for c in self._prefilling if c.id in self.calls.admitted and c.computed_tokens < c.prompt_tokens
        ]
        return bool(self._prefilling)

    def _settle(self, view: View) -> None:
        """Start a scan: bring ledger and commitments up to date."""
        self._count_repeats()
        self._changed = self._touched = self._gated_out = False
        self._arrived = {}
        self._refused = {}
        self._borrowing = {}
        self.reservations.update(view)
        self._charge(view)
        self._uncommitted = self.calls.uncommitted(view)

    def _charge(self, view: View) -> None:
        admitted = self.calls.admitted
        self.ledger.settle(lambda call_id: admitted[call_id].call.gpu_blocks, view.gpu.capacity - view.gpu.free)

    def _skip_to(self, step: int) -> None:
        """Take note of the scans before ``step`` that were left out because they could only repeat the last one."""
        if step > self._scan_step + 1:
            if self._offered == len(self._refused):
                self._repeats += step - self._scan_step - 1
            self._scan_step = step - 1

    def _count_repeats(self) -> None:
        """Count the denials of scans that were left out: in vLLM every step tries, and denies, every waiting call."""
        times, self._repeats = self._repeats, 0
        if times:
            self.denied["capacity"] += times * len(self._refused)
            for name in self._refused.values():
                self.types.deferred(name, times)

    def _by_affinity(self, view: View, ranked: list[Tracked], width: int) -> list[Tracked]:
        """Within bands of close scores, first those whose prefix running calls hold already."""
        ordered: list[Tracked] = []
        at = 0
        while at < len(ranked):
            floor = ranked[at].effective - width
            end = at + 1
            while end < len(ranked) and ranked[end].effective >= floor:
                end += 1
            band = ranked[at:end]
            if len(band) > 1:
                keys = {t.call.id: self._affinity(view, t) for t in band}
                band.sort(key=lambda t: keys[t.call.id], reverse=True)
            ordered += band
            at = end
        return ordered

    def _affinity(self, view: View, t: Tracked) -> tuple[float, int]:
        need = view.need(t.call)
        shared = 0 if need is None else need.gpu_hit - need.free_hits
        if need is None or not shared:
            return 0.0, 0
        demand = self.calls.demand(view, t, need)
        return (shared / (shared + demand), shared) if shared >= demand else (0.0, 0)

    # -- admission ------------------------------------------------------------------------------------

    def admit(self, view: View, call: CallView, need: Need) -> Verdict:
        """ADMIT what fits beside all commitments and is paid for; pass over what is not.

        A call denied by reservations alone is offered again after the others and may then borrow any idle
        reserve. With nothing admitted there is nothing to protect: stock admission decides.
        """
        t = self.calls.track(call)
        t.need, t.demand, t.payment = need, self.calls.demand(view, t, need), ()
        if t.demand > self._uncommitted:
            return self._deny(t, "capacity") if self.calls.admitted else stock_admit(need)
        if t.gate is not None and self.calls.admitted and self._gated(t.gate):
            self._gated_out = True
            return self._deny(t, "capacity")
        borrow = call.id in self._borrowing
        payment = self._pay(t, borrow=borrow)
        if payment is None:
            verdict = self._deny(t, "reservation")
            self._borrowing[call.id] = None
            return verdict if borrow else Verdict.LATER
        self._refused.pop(call.id, None)
        t.payment = payment
        return Verdict.ADMIT

    def _deny(self, t: Tracked, reason: str) -> Verdict:
        self._refused[t.call.id] = t.type
        self.denied[reason] += 1
        self.types.deferred(t.type)
        return Verdict.SKIP

    def _gated(self, gate: tuple[int, int]) -> bool:
        """A preempted call waits until another ends, or more is uncommitted than right after its preemption."""
        completions, uncommitted = gate
        return self._completions == completions and self._uncommitted <= uncommitted

    def _pay(self, t: Tracked, *, borrow: bool) -> Payment | None:
        available = self.ledger.available(self._uncommitted)
        scores = self.ledger.plan.scores
        donors = sorted(
            (name for name, blocks in available.reserved.items() if blocks and name != t.type),
            key=lambda name: (available.reserved[name], scores.get(name, 0.0), name),
            reverse=True,
        )
        if not borrow:
            donors = [name for name in donors if self._lends(name, t)]
        return available.pay(t.demand, t.type, donors)

    def _lends(self, name: str, t: Tracked) -> bool:
        """A type lends while none of its calls waits, or to a call that scores far higher than they do."""
        best = self._waiting_best.get(name)
        margin = self.rule.borrow_margin
        return best is None or (margin > 0 and t.effective - best >= margin)

    def type_score(self, view: View, name: str) -> float:
        """Present score of one agent type."""
        self._skip_to(view.step)
        self._count_repeats()
        return self.reservations.type_score(view, name)


def _rank(t: Tracked) -> tuple[int, int, float, str]:
    return -t.effective, -t.own, t.arrival_s, t.call.id
