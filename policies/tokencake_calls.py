"""The calls that TokenCake's 2026 port schedules: their scores, what they are promised, who is preempted.

Facts: the authors' repository (``scheduling.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokencake.policies.api import CallView, Need, View
from tokencake.policies.tokencake_ledger import Payment
from tokencake.policies.tokencake_metadata import Metadata, ScoreLine, metadata

COMPLETED = 0.9
"""A call that has generated this part of its limit is the last to be preempted."""


class Tracked:
    """A call that waits, loads or runs, with what is worked out once."""

    __slots__ = (
        "admitted_s",
        "arrival_s",
        "call",
        "demand",
        "effective",
        "final",
        "gate",
        "group",
        "line",
        "meta",
        "need",
        "own",
        "payment",
        "started_s",
        "type",
    )

    def __init__(self, call: CallView, meta: Metadata):
        self.call = call
        self.meta = meta
        self.line = ScoreLine(meta)
        self.type = call.agent_type
        self.arrival_s = call.arrival_s
        self.started_s = call.program.arrival_s
        self.group = (call.program.id, meta.join_group) if meta.join_group else None
        self.own = self.effective = 0
        self.admitted_s: float | None = None
        self.gate: tuple[int, int] | None = None
        self.payment: Payment = ()
        self.need: Need | None = None
        self.demand = self.final = 0


class Calls:
    """Live calls.

    Args:
        commit: What an admitted call is promised; see :meth:`uncommitted`.
        reserve_generation: Commit outputs at all.
        inherit: Members of a join group share the greatest score among them.

    Attributes:
        admitted: Calls that run or load.
    """

    def __init__(self, *, commit: str, reserve_generation: bool, inherit: bool):
        self.admitted: dict[str, Tracked] = {}
        self._commit = commit
        self._reserve_generation = reserve_generation
        self._inherit = inherit
        self._tracked: dict[str, Tracked] = {}
        self._first_arrival_s: float | None = None

    def get(self, call_id: str) -> Tracked | None:
        """The record of a call, if it was asked for."""
        return self._tracked.get(call_id)

    def track(self, call: CallView) -> Tracked:
        """The record of a live call."""
        tracked = self._tracked.get(call.id)
        if tracked is None:
            tracked = self._tracked[call.id] = Tracked(call, self.describe(call))
        return tracked

    def describe(self, call: CallView) -> Metadata:
        """What a call declares."""
        if self._first_arrival_s is None:
            self._first_arrival_s = call.program.arrival_s
        return metadata(call, self._first_arrival_s)

    def forget(self, call_id: str) -> None:
        """A call ended."""
        self._tracked.pop(call_id, None)

    def score(self, view: View, live: Sequence[Tracked]) -> None:
        """Own and effective scores; members of a join group share the greatest."""
        now = view.now
        greatest: dict[tuple[str, str], int] = {}
        for t in live:
            t.own = t.effective = t.line.at(now - t.started_s, now - t.arrival_s)
            if t.group is not None:
                greatest[t.group] = max(greatest.get(t.group, t.own), t.own)
        if self._inherit:
            for t in live:
                if t.group is not None:
                    t.effective = greatest[t.group]

    # -- commitments -------------------------------------------------------------------------------

    def uncommitted(self, view: View) -> int:
        """Free blocks that no admitted call still has to take to reach what it declared.

        ``all``: prompt and output limit of every admitted call. ``progress``: known input of every one, and
        the smallest output still to come, so that one can finish. ``reclaim``: known input, and the output
        only of calls that were preempted before.
        """
        if self._commit == "all":
            return view.gpu.free - sum(max(0, t.final - t.call.gpu_blocks) for t in self.admitted.values())
        size = view.block_size
        committed = 0
        smallest: int | None = None
        for t in self.admitted.values():
            held = t.call.gpu_blocks
            known = -(-(t.call.prompt_tokens + t.call.output_tokens) // size)
            final = max(known, -(-self.final_tokens(view, t) // size))
            if self._commit == "reclaim" and t.call.preemptions:
                committed += max(0, final - held)
                continue
            committed += max(0, known - held)
            headroom = final - max(known, held)
            if self._commit == "progress" and headroom > 0 and (smallest is None or headroom < smallest):
                smallest = headroom
        return view.gpu.free - committed - (smallest or 0)

    def final_tokens(self, view: View, t: Tracked) -> int:
        """Prompt and output limit; an undeclared limit is what the type's calls have produced on average."""
        if not self._reserve_generation:
            return t.call.prompt_tokens + t.call.output_tokens
        limit: float | None = t.call.max_tokens
        if limit is None:
            limit = view.foresee_output(t.call)
        return t.call.prompt_tokens + max(t.call.output_tokens, round(limit or 0))

    def demand(self, view: View, t: Tracked, need: Need) -> int:
        """Blocks that admitting a waiting call commits, its unheld hits included; notes its ``final`` blocks."""
        whole = need.full + need.free_hits
        if self._commit != "all" and not (self._commit == "reclaim" and t.call.preemptions):
            return whole
        size = view.block_size
        known = -(-(t.call.prompt_tokens + t.call.output_tokens) // size)
        t.final = max(known, -(-self.final_tokens(view, t) // size))
        return whole + t.final - known

    # -- victims ------------------------------------------------------------------------------------------

    def victim(self, view: View, need: int, for_call: CallView, ready_tokens: Mapping[str, int], band: int) -> CallView:
        """Among the running calls with low scores, the one whose recomputation is cheapest for what it frees.

        Args:
            view: State of the host.
            need: Blocks that the call asks for.
            for_call: The call that asks.
            ready_tokens: Leading tokens of running calls that the CPU tier holds; they are not recomputed.
            band: Only calls within this distance of the lowest score are candidates.
        """
        tracked = [self.track(call) for call in view.running]
        self.score(view, [*(self.track(call) for call in view.waiting), *self.admitted.values()])
        lowest = min(t.effective for t in tracked)
        missing = need - view.gpu.free
        if self._commit == "reclaim":
            missing = max(missing, -self.uncommitted(view))
        released = {t.call.id: t.call.own_blocks for t in tracked}
        low = [t for t in tracked if t.effective <= lowest + band and released[t.call.id] > 0]
        enough = [t for t in low if t.call.id != for_call.id and released[t.call.id] >= missing]
        candidates = enough or low
        if not candidates:
            return view.running[-1]

        def cost(t: Tracked) -> tuple[bool, float, int, int, int, float, str]:
            free = released[t.call.id]
            recompute = max(0, t.call.computed_tokens - ready_tokens.get(t.call.id, 0))
            limit = t.call.max_tokens
            done = limit is not None and t.call.output_tokens >= COMPLETED * limit
            return done, recompute / free, recompute, -free, t.effective, -t.arrival_s, t.call.id

        return min(candidates, key=cost).call
