"""Reservations of TokenCake's 2026 port: from what agent types were like, and are now, to shares of memory.

Facts: the authors' repository (``scheduling.py``); the formulas are in :mod:`~tokencake.policies.tokencake_types`.
"""

from __future__ import annotations

from tokencake.policies.api import View
from tokencake.policies.tokencake_calls import Calls
from tokencake.policies.tokencake_ledger import Ledger
from tokencake.policies.tokencake_types import PartitionRule, TypeHistories, TypeRank


class Reservations:
    """Divides memory among agent types from time to time, and hands the plan to the ledger.

    Attributes:
        ratio: Reserved part of memory.
        next_step: Step from which on memory is divided anew.
    """

    def __init__(self, rule: PartitionRule, period: int, types: TypeHistories, calls: Calls, ledger: Ledger):
        self.ratio = rule.ratio_min
        self.next_step = -1
        self._rule = rule
        self._period = period
        self._types = types
        self._calls = calls
        self._ledger = ledger

    def update(self, view: View) -> None:
        """Divide memory anew, at the first scan and then at the first one after every period of steps."""
        if view.step < self.next_step:
            return
        self.next_step = view.step + self._period
        rule, total = self._rule, view.gpu.capacity
        self.ratio = rule.ratio(self.ratio, 1 - view.gpu.free / total)
        self._ledger.plan = rule.divide(total, self.ratio, self._ranks(view))

    def _ranks(self, view: View) -> list[TypeRank]:
        """All agent types that were heard of, with their waiting calls' waits and their live calls' importance."""
        waits: dict[str, list[float]] = {name: [] for name in self._types.names()}
        importance: dict[str, float] = {}
        used: dict[str, int] = {}
        for call in view.waiting:
            t = self._calls.track(call)
            waits.setdefault(t.type, []).append(max(0.0, view.now - t.arrival_s))
            importance[t.type] = max(importance.get(t.type, 0.0), t.meta.importance)
        for t in self._calls.admitted.values():
            importance[t.type] = max(importance.get(t.type, 0.0), t.meta.importance)
            used[t.type] = used.get(t.type, 0) + t.call.gpu_blocks
        ranks = []
        for name, waiting in waits.items():
            history = self._types.of(name)
            most = max(importance.get(name, 0.0), history.importance)
            ranks.append(TypeRank(name, history.score(waiting, most), most, used.get(name, 0)))
        return ranks

    def type_score(self, view: View, name: str) -> float:
        """Present score of one agent type."""
        calls = [self._calls.track(call) for call in view.waiting if call.agent_type == name]
        live = [t.meta.importance for t in (*calls, *self._calls.admitted.values()) if t.type == name]
        return self._types.of(name).score([max(0.0, view.now - t.arrival_s) for t in calls], max(live, default=0.0))
