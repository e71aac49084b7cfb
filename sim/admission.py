"""Which waiting calls start in a step: the second half of vLLM's ``Scheduler.schedule``.

Calls whose load from the CPU tier is done come first. Then the waiting calls are offered in queue
order (or a policy's), each with its prefix hit and what it needs, until one does not fit, the
budget is used up or enough calls run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tokencake.policies.api import CallView, Need, Policy, Verdict, overrides
from tokencake.sim.calls import Call, Status
from tokencake.sim.extents import NO_MATCH, Match

if TYPE_CHECKING:
    from tokencake.sim.config import EngineConfig
    from tokencake.sim.scheduler import Scheduler
    from tokencake.sim.step import Step, Watcher


class Offer(NamedTuple):
    """A waiting call that is to start.

    Attributes:
        call: The call.
        match: Its prefix hit.
        found: Blocks after those to be loaded from the CPU tier.
        tokens: Tokens to compute in this step; 0 if it loads.
        fits: Whether memory and reservations let it start.
    """

    call: Call
    match: Match
    found: int
    tokens: int
    fits: bool


class Admission:
    """Admits waiting calls to a scheduler's running list.

    Attributes:
        changed: Something happened since the policy gave its order, so it is asked again.
        short: Memory, or a reservation, kept a call out of the last plan.
        left: Tokens that the step has left; whoever takes up an offer says what is left then.
    """

    def __init__(self, queues: Scheduler, config: EngineConfig, policy: Policy, watcher: Watcher):
        self.changed = True
        self.short = False
        self.left = 0
        self._queues = queues
        self._compute = queues.compute
        self._decodes = queues.decodes
        self._pool = queues.pool
        self._waiting = queues.waiting
        self._running = queues.running
        self._loading = queues.loading
        self._prefilling = queues.prefilling
        self._inflight = queues.inflight
        self._block_size = queues.block_size
        self._caching = config.prefix_caching
        self._has_cpu = config.cpu_blocks > 0
        self._most = config.max_num_seqs
        self._watermark = config.watermark_blocks
        self._whole = config.reserve_full_isl
        self._policy = policy
        self._watcher = watcher
        self._orders = overrides(policy, "order")
        self._order_drifts = overrides(policy, "next_change")
        self._admits = overrides(policy, "admit")
        self._places = overrides(policy, "place")
        self._ordered: Sequence[CallView] = ()

    def admit(self, step: Step, budget: int, cap: int) -> None:
        """Start calls in ``step``, with ``budget`` tokens left and at most ``cap`` for one (0: no cap)."""
        position = 0
        while budget > 0 and position < len(self._loading):
            if len(self._running) >= self._most:
                return
            call = self._loading[position]
            if call.status is Status.LOADING:
                position += 1
                continue
            self._decodes.sync_growers(call.holding.chain)
            self._loaded(call)
            tokens = self._first_chunk(call, call.computed, budget, cap)
            size, held = self._block_size, call.holding.blocks
            if not self._fits(-(-call.tokens // size) - held, -(-(call.computed + tokens) // size) - held, 0):
                self.short = True
                return
            del self._loading[position]
            budget -= tokens
            self._compute.start(step, call, tokens)
            self._watcher.started(call)
        if not self._queues.waiting:
            return
        self.left = budget
        for offer in self.offers(cap):
            if not offer.fits:
                step.refused = True
                self.refuse(offer.call)
                return
            self._start(step, offer)
            self.left -= offer.tokens

    def refuse(self, call: Call) -> None:
        """A call that the policy admitted does not fit."""
        if self._admits:
            self._watcher.refuse_admission(call, "does not fit")

    def offers(self, cap: int) -> Iterator[Offer]:
        """Waiting calls that are to start while tokens are :attr:`left`, in order; what does not fit is the last one.

        Args:
            cap: Most tokens of one call (0: no cap).
        """
        if self.left <= 0 or len(self._running) >= self._most:
            return
        later: list[Call] = []
        for source in (self._candidates(), later):
            for call in source:
                offer, verdict = self._offer(call, cap)
                if verdict is Verdict.ADMIT:
                    if offer is None:
                        continue
                    yield offer
                    if not offer.fits or self.left <= 0 or not self._waiting or len(self._running) >= self._most:
                        return
                elif verdict is Verdict.STOP:
                    return
                elif verdict is Verdict.LATER and source is not later:
                    later.append(call)

    def _loaded(self, call: Call) -> None:
        """Make a finished load findable (``_update_waiting_for_remote_kv``)."""
        full = call.computed // self._block_size
        if full > call.holding.hashed:
            self._pool.grow(call.holding, full)
        if call.computed == call.tokens:
            call.computed -= 1  # the last token is computed again, to sample from it

    def _candidates(self) -> Iterator[Call]:
        if not self._orders:
            waiting = self._waiting
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
            if named is None or named not in self._waiting or view.id in seen:
                continue
            seen.add(view.id)
            if not named.program.parked:
                yield named

    def need(self, call: Call, budget: int, cap: int) -> Need | None:
        """What a waiting call would take now; None if it cannot start in this step. Changes nothing."""
        look = self._look(call, budget, cap)
        return None if look is None else look[2]

    def _offer(self, call: Call, cap: int) -> tuple[Offer | None, Verdict]:
        """What starting one waiting call takes, and what the policy says to it."""
        look = self._look(call, self.left, cap)
        if look is None:
            return None, Verdict.SKIP
        match, tokens, need = look
        if not need.fits:
            self.short = True  # a policy may see that too, and say STOP
        offer = Offer(call, match, need.cpu_hit, tokens, need.fits)
        if not self._admits:
            return offer, Verdict.ADMIT
        return offer, self._policy.admit(self._queues.view, self._queues.view.call(call), need)

    def _look(self, call: Call, budget: int, cap: int) -> tuple[Match, int, Need] | None:
        """A waiting call's prefix hit, tokens to compute in this step, and needs; None if it cannot start."""
        if call.preemptions and self._inflight and call.last_step >= self._inflight[0].number:
            return None  # an output from before its preemption is still in flight
        size, known = self._block_size, call.prompt + call.known
        if self._caching:
            chain = call.holding.chain
            self._decodes.sync_growers(chain)
            match = self._pool.match(chain, (known - 1) // size)
        else:
            match = NO_MATCH
        hit = match.blocks
        found = self._watcher.find_cpu(call, hit) if self._has_cpu else 0
        if found is None:
            return None
        total = -(-known // size)
        if found:
            tokens, chunk = 0, found
        else:
            tokens = self._first_chunk(call, hit * size, budget, cap)
            chunk = -(-(hit * size + tokens) // size) - hit
        new, free = total - hit, match.free
        fits = self._fits(new + free, chunk + free, found) and (
            not self._places or self._watcher.room(call, new + free)
        )
        return match, tokens, Need(chunk, new, hit, found, free, fits)

    def _fits(self, full: int, now: int, found: int) -> bool:
        """``KVCacheManager.allocate_slots`` for a waiting call.

        Args:
            full: Free blocks that all its known tokens would take.
            now: Free blocks that this step would take.
            found: Blocks to be loaded from the CPU tier.
        """
        free = self._pool.free
        if self._watermark and self._running:
            free -= self._watermark
        if self._whole and full > free:
            return False
        return now <= (free - self._queues.owed() if found else free)

    def _first_chunk(self, call: Call, computed: int, budget: int, cap: int) -> int:
        tokens = call.prompt + call.known - computed
        if cap and tokens > cap:
            tokens = cap
        return tokens if tokens < budget else budget

    def _start(self, step: Step, offer: Offer) -> None:
        """Give a waiting call its prefix hit, and let it run or load."""
        self.entered(offer.call, offer.match.blocks, offer.found)
        if offer.match.blocks:
            self._pool.acquire(offer.call.holding, offer.match)
        if offer.found:
            self._watcher.load(offer.call, offer.match.blocks, offer.found)
        else:
            self._compute.start(step, offer.call, offer.tokens)
        self._watcher.started(offer.call)
        self._watcher.admitted(offer.call)

    def entered(self, call: Call, hit: int, found: int) -> None:
        """A waiting call leaves the queue with ``hit`` blocks of the GPU and ``found`` of the CPU tier."""
        self.changed = True
        call.computed = hit * self._block_size
        if not call.preemptions:
            call.gpu_hit_tokens = call.computed
            call.cpu_hit_tokens = min(found * self._block_size, call.tokens - call.computed)
        del self._waiting[call]
