"""Which waiting calls start in a step: the second half of vLLM's ``Scheduler.schedule``.

Calls whose load from the CPU tier is done come first. Then the waiting calls are offered in queue
order (or a policy's), each with its prefix hit and what it needs, until one does not fit, the
budget is used up or enough calls run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tokencake.policies.api import CallView, Need, Policy, Verdict, overrides
from tokencake.sim.calls import Call, Status
from tokencake.sim.extents import NO_MATCH, Match

if TYPE_CHECKING:
    from tokencake.sim.config import EngineConfig
    from tokencake.sim.scheduler import Scheduler
    from tokencake.sim.step import Step, Watcher


class Admission:
    """Admits waiting calls to a scheduler's running list.

    Attributes:
        changed: Something happened since the policy gave its order, so it is asked again.
        short: Memory, or a reservation, kept a call out of the last plan.
    """

    def __init__(self, queues: Scheduler, config: EngineConfig, policy: Policy, watcher: Watcher):
        self.changed = True
        self.short = False
        self._queues = queues
        self._config = config
        self._policy = policy
        self._watcher = watcher
        self._orders = overrides(policy, "order")
        self._order_drifts = overrides(policy, "next_change")
        self._admits = overrides(policy, "admit")
        self._ordered: Sequence[CallView] = ()

    def admit(self, step: Step, budget: int, cap: int) -> None:
        """Start calls in ``step``, with ``budget`` tokens left and at most ``cap`` for one (0: no cap)."""
        position = 0
        while budget > 0 and position < len(self._queues.loading):
            if len(self._queues.running) >= self._config.max_num_seqs:
                return
            call = self._queues.loading[position]
            if call.status is Status.LOADING:
                position += 1
                continue
            self._queues.decodes.sync_growers(call.holding.chain)
            self._loaded(call)
            tokens = self._first_chunk(call, call.computed, budget, cap)
            if -(-call.tokens // self._queues.block_size) - call.holding.blocks > self._queues.pool.free:
                self.short = True
                return
            del self._queues.loading[position]
            budget -= tokens
            self._queues.start(step, call, tokens)
        later: list[Call] = []
        waiting = self._queues.waiting
        for call in self._candidates():
            if budget <= 0 or len(self._queues.running) >= self._config.max_num_seqs:
                return
            used = self._try(step, call, budget, cap, later)
            if used is None:
                return
            budget -= used
            if not waiting:
                return
        for call in later:
            if budget <= 0 or len(self._queues.running) >= self._config.max_num_seqs:
                return
            used = self._try(step, call, budget, cap, None)
            if used is None:
                return
            budget -= used

    def _loaded(self, call: Call) -> None:
        """Make a finished load findable (``_update_waiting_for_remote_kv``)."""
        full = call.computed // self._queues.block_size
        if full > call.holding.hashed:
            self._queues.pool.grow(call.holding, full)
        if call.computed == call.tokens:
            call.computed -= 1  # the last token is computed again, to sample from it

    def _candidates(self) -> Iterator[Call]:
        if not self._orders:
            waiting = self._queues.waiting
            while waiting:
                head = next(iter(waiting))
                if not head.program.parked:
                    yield head
                if head in waiting:  # passed over: only now is a snapshot of the rest worth it
                    for call in list(waiting):
                        if call is not head and not call.program.parked:
                            yield call
                    return
            return
        if self.changed or self._order_drifts:
            self.changed = False
            self._ordered = self._policy.order(self._queues.view, self._queues.view.waiting)
        seen: set[str] = set()
        for view in self._ordered:  # as far as calls are tried, which is seldom far
            named = self._queues.view.find(view.id)
            if named is None or named not in self._queues.waiting or view.id in seen:
                continue
            seen.add(view.id)
            if not named.program.parked:
                yield named

    def _try(self, step: Step, call: Call, budget: int, cap: int, later: list[Call] | None) -> int | None:
        """Offer one waiting call; returns the tokens it uses, or None to end the scan."""
        if self._queues.inflight and call.last_step >= self._queues.inflight[0].number:
            return 0  # an output from before its preemption is still in flight
        size = self._queues.block_size
        if self._config.prefix_caching:
            chain = call.holding.chain
            self._queues.decodes.sync_growers(chain)
            match = self._queues.pool.match(chain, (call.tokens - 1) // size)
        else:
            match = NO_MATCH
        hit = match.blocks
        found = self._watcher.find_cpu(call, hit) if self._config.cpu_blocks else 0
        if found is None:
            return 0
        total = -(-call.tokens // size)
        if found:
            tokens, chunk = 0, found
        else:
            tokens = self._first_chunk(call, hit * size, budget, cap)
            chunk = -(-(hit * size + tokens) // size) - hit
        full = total - hit + match.free
        fits = self._fits(full, chunk + match.free, found) and self._watcher.room(call, full)
        self.short = self.short or not fits  # a policy may see that too, and say STOP
        if self._admits:
            need = Need(chunk, total - hit, hit, found, match.free, fits)
            verdict = self._policy.admit(self._queues.view, self._queues.view.call(call), need)
            if verdict is Verdict.LATER and later is not None:
                later.append(call)
            if verdict is Verdict.SKIP or verdict is Verdict.LATER:
                return 0
            if verdict is Verdict.STOP:
                return None
        if not fits:
            if self._admits:
                self._watcher.refuse_admission(call, "does not fit")
            return None
        self._enter(call, match, found)
        if found:
            self._watcher.load(call, hit, found)
            return 0
        self._queues.start(step, call, tokens)
        return tokens

    def _fits(self, full: int, now: int, found: int) -> bool:
        """``KVCacheManager.allocate_slots`` for a waiting call.

        Args:
            full: Free blocks that all its known tokens would take.
            now: Free blocks that this step would take.
            found: Blocks to be loaded from the CPU tier.
        """
        free = self._queues.pool.free
        config = self._config
        if config.watermark and self._queues.running:
            free -= config.watermark_blocks
        if config.reserve_full_isl and full > free:
            return False
        return now <= (free - self._owed() if found else free)

    def _owed(self) -> int:
        """Blocks that admitted prefills still have to take (``_inflight_prefill_reserved_blocks``)."""
        size = self._queues.block_size
        calls = self._queues.prefilling + [c for c in self._queues.loading if c.status is Status.LOADING]
        return sum(-(-c.tokens // size) - c.holding.blocks for c in calls)

    def _first_chunk(self, call: Call, computed: int, budget: int, cap: int) -> int:
        tokens = call.tokens - computed
        if cap and tokens > cap:
            tokens = cap
        return min(tokens, budget)

    def _enter(self, call: Call, match: Match, found: int) -> None:
        """Give a waiting call its prefix hit."""
        self.changed = True
        hit = match.blocks
        if hit:
            self._queues.pool.acquire(call.holding, match)
        call.computed = hit * self._queues.block_size
        if not call.preemptions:
            call.gpu_hit_tokens = hit * self._queues.block_size
            call.cpu_hit_tokens = min(found * self._queues.block_size, call.tokens - call.computed)
        del self._queues.waiting[call]
        self._watcher.admitted(call)
