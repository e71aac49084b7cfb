"""What running calls compute in a step: the first half of vLLM's ``Scheduler.schedule``.

Two ways lead through the running calls. :meth:`Compute.one_by_one` asks each call in turn and is the
reference. :meth:`Compute.together` treats all decoding calls as one (:mod:`tokencake.sim.decode`) and is
taken when the order of the calls cannot matter: the budget covers the step and no memory runs out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokencake.policies.api import Policy, overrides
from tokencake.sim.calls import Call, Status

if TYPE_CHECKING:
    from tokencake.sim.config import SimConfig
    from tokencake.sim.scheduler import Scheduler
    from tokencake.sim.step import Step, Watcher


class Compute:
    """Gives tokens of a step, and the blocks for them, to a scheduler's running calls.

    Attributes:
        stores_outputs: The policy stores outputs, so that each decode must be looked at.
    """

    def __init__(self, queues: Scheduler, config: SimConfig, policy: Policy, watcher: Watcher):
        engine = config.engine
        self._queues = queues
        self._decodes = queues.decodes
        self._pool = queues.pool
        self._spare = queues.spare
        self._running = queues.running
        self._prefilling = queues.prefilling
        self._inflight = queues.inflight
        self._block_size = engine.block_size
        self._caching = engine.prefix_caching
        self._free_recompute = config.free_recompute
        self._watcher = watcher
        self._runs = 0
        stores = policy.store_when if overrides(policy, "store") and engine.cpu_blocks else ()
        self._stores_prompts = "prompt" in stores
        self.stores_outputs = "output" in stores

    def together(self, step: Step, budget: int, cap: int) -> bool:
        """Plan the running calls without asking each decode; False if that cannot be done."""
        decodes = self._decodes
        pool = self._pool
        size = self._block_size
        batch = decodes.size
        if batch > budget:
            return False
        tick = decodes.tick
        blocks = decodes.boundary[tick % size]
        chunks: list[tuple[Call, int, int]] = []
        if self._prefilling:
            left = budget - batch
            for call in self._prefilling:
                computed = call.computed
                tokens = call.prompt + call.known - computed
                if cap and tokens > cap:
                    tokens = cap
                if tokens > left:
                    if decodes.last_order > self._prefilling[0].run_order:
                        return False  # decodes come behind a prompt that uses up the budget
                    tokens = left
                    if not tokens:
                        break
                left -= tokens
                holding = call.holding
                need = -(-(computed + tokens) // size) - holding.hashed - holding.private
                chunks.append((call, tokens, need))
                blocks += need
        if blocks > pool.free:
            return False
        if batch:
            step.decodes = step.tokens = batch
            step.context = decodes.base + batch * tick
        if blocks:
            pool.take(self._spare, blocks)
        if chunks and self._caching:
            for call, _, _ in chunks:
                decodes.sync_growers(call.holding.chain)
        decodes.tick = tick + 1
        decodes.lag = len(self._inflight)
        for call, tokens, need in chunks:
            if self._caching:
                decodes.sync_growers(call.holding.chain, before=call.run_order)
            if need:
                pool.move(self._spare, call.holding, need)
            self._chunk(step, call, tokens)
        return True

    def one_by_one(self, step: Step, budget: int, cap: int) -> None:
        """Plan the running calls in turn, as vLLM does."""
        decodes = self._decodes
        scheduled = self._in_turn(budget, cap)
        skipped = [call for call in self._running if call.decoding and call not in scheduled]
        self._queues.skipped = skipped
        for call in skipped:
            decodes.leave(call)
        step.decodes = decodes.size
        step.context = decodes.context()
        step.tokens = decodes.size
        decodes.tick += 1
        decodes.lag = len(self._inflight)
        for call in skipped:
            decodes.join(call)
        for call, tokens in scheduled.items():
            if not call.decoding:
                self._chunk(step, call, tokens)
            elif self.stores_outputs and call.holding.hashed > call.offered:
                call.offered = call.holding.hashed
                self._watcher.computed(call, "output")

    def _in_turn(self, budget: int, cap: int) -> dict[Call, int]:
        """Tokens of each running call that gets some; their blocks are taken, by preemption if it must be."""
        pool, size, running = self._pool, self._block_size, self._running
        scheduled: dict[Call, int] = {}
        for call in running:
            if call.decoding:
                self._decodes.sync(call)
                self.hash_returned(call)
        index, left = 0, budget
        while index < len(running) and left > 0:
            call = running[index]
            if call.decoding:
                tokens = 1
            elif call.produced == call.output:  # its last output is in flight
                index += 1
                continue
            else:
                tokens = call.prompt + call.known - call.computed
                if cap and tokens > cap:
                    tokens = cap
                if tokens > left:
                    tokens = left
            need = -(-(call.computed + tokens) // size) - call.holding.blocks
            if need > pool.free:
                left += self._make_room(need, call, scheduled)
                if call.status is not Status.RUNNING or need > pool.free:
                    break
                index = running.index(call)
            if need:
                pool.take(call.holding, need)
            scheduled[call] = tokens
            left -= tokens
            index += 1
            self._hash_scheduled(call, tokens)
        return scheduled

    def _make_room(self, need: int, call: Call, scheduled: dict[Call, int]) -> int:
        """Preempt calls until ``need`` blocks are free, or ``call`` itself is preempted, or one cannot be.

        Returns:
            Tokens that the victims had been given in this plan; they are no longer ``scheduled``.
        """
        queues, given_back = self._queues, 0
        while need > self._pool.free:
            victim = queues.choose_victim(need, call)
            if not queues.can_be_freed(victim):
                break
            given_back += scheduled.pop(victim, 0)
            queues.preempt(victim)
            if victim is call:
                break
        return given_back

    def start(self, step: Step, call: Call, tokens: int) -> None:
        """Put a call that is admitted on the running list and compute its first chunk."""
        call.status = Status.RUNNING
        self._runs += 1
        call.run_order = self._runs
        self._running.append(call)
        self._prefilling.append(call)
        holding = call.holding
        need = -(-(call.computed + tokens) // self._block_size) - holding.hashed - holding.private
        if need:
            self._pool.take(holding, need)
        self._chunk(step, call, tokens)

    def _chunk(self, step: Step, call: Call, tokens: int) -> None:
        """Compute ``tokens`` more of a call's known tokens in this step; it holds the blocks for them."""
        holding = call.holding
        computed = call.computed
        done = computed + tokens
        if self._free_recompute:
            known = holding.chain.computed_before(done // self._block_size) * self._block_size
            if known < done:
                start = max(known, computed)
                step.prefill = [*step.prefill, (done - start, start)]
        else:
            step.prefill = [*step.prefill, (tokens, computed)]
        step.tokens += tokens
        if self._caching:
            full = done // self._block_size
            if full > holding.hashed:
                self._pool.grow(holding, full)
        call.computed = done
        call.last_step = step.number
        if call.reached > computed:
            call.recomputed += min(done, call.reached) - computed
        call.offered = holding.hashed
        if self._stores_prompts:
            self._watcher.computed(call, "prompt")
        if done == call.prompt + call.known:
            self._prefilling.remove(call)
            call.produced += 1
            if call.first_token_ps < 0:
                step.firsts = [*step.firsts, call]
            if call.produced == call.output:
                step.finishers = [*step.finishers, call]
            else:
                self._decodes.join(call)

    def _hash_scheduled(self, call: Call, tokens: int) -> None:
        """Hash the blocks that complete in this step, as vLLM does when it allocates."""
        if call.decoding:
            late = bool(self._inflight) and call.last_step >= self._inflight[0].number
            full = (call.prompt + call.produced - late) // self._block_size
        else:
            full = (call.computed + tokens) // self._block_size
        if full > call.holding.hashed:
            self._pool.grow(call.holding, full)
            if call.decoding:
                self._decodes.watch(call)

    def hash_returned(self, call: Call) -> None:
        """Hash what the returned outputs of a decoding call complete.

        A call that was left out of steps has it done when its outputs return (``AsyncScheduler``
        ``_update_request_with_output``), not when it is scheduled next.
        """
        late = bool(self._inflight) and call.last_step >= self._inflight[0].number
        full = (call.prompt + call.produced - 1 - late) // self._block_size
        if full > call.holding.hashed and self._caching:
            self._pool.grow(call.holding, full)
            if call.decoding:
                self._decodes.watch(call)
