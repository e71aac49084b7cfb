"""One step of the vLLM 0.32 scheduler, for dense full-attention models.

``vllm/v1/core/sched/scheduler.py::Scheduler.schedule``: every call has ``computed`` tokens that
catch up with its known ``tokens``; there is no separate prefill phase. Running calls come first, in
list order, and preempt the last one when memory is short; then, if nobody was preempted, waiting
calls are admitted until one does not fit.

Admission is in :mod:`tokencake.sim.admission`. Two ways lead through the running calls. The explicit
one asks each call in turn and is the reference. The fast one treats all decoding calls as one
(:mod:`tokencake.sim.decode`) and is taken when the order of the calls cannot matter: the budget covers
the step and no memory runs out.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from tokencake.policies.api import Need, Policy, overrides
from tokencake.sim.admission import Admission
from tokencake.sim.calls import Call, Status
from tokencake.sim.decode import NEVER, DecodeSet
from tokencake.sim.extents import Holding
from tokencake.sim.step import Step, Watcher

if TYPE_CHECKING:
    from tokencake.sim.blocks import BlockPool
    from tokencake.sim.config import SimConfig
    from tokencake.sim.kv import RunPool
    from tokencake.sim.view import HostView


class Scheduler:
    """Queues, running calls and memory of one engine.

    Attributes:
        waiting: Calls without KV, in queue order.
        loading: Calls that hold blocks while a copy from the CPU tier fills them (vLLM
            ``kv_holding_waiting``).
        running: Calls in scheduling order.
        inflight: Steps scheduled but not ended.
        fixed_limits: Token budget and chunk cap, if they are the same in every step.
        deferred: Blocks of preempted calls that steps in flight still write, and the step to wait for.
        just_preempted: The last plan preempted a call; it admitted none, but the next one may.
        skipped: Decoding calls that the last plan left out.
    """

    def __init__(
        self,
        config: SimConfig,
        policy: Policy,
        pool: RunPool | BlockPool,
        watcher: Watcher,
    ):
        engine = config.engine
        self.pool = pool
        self.block_size = engine.block_size
        self.waiting: OrderedDict[Call, None] = OrderedDict()
        self.loading: list[Call] = []
        self.running: list[Call] = []
        self.prefilling: list[Call] = []
        self.inflight: deque[Step] = deque()
        self.spare = Holding(None)  # type: ignore[arg-type]  # blocks of decoding calls, not synced
        self.decodes = DecodeSet(pool, engine.block_size, self.spare, hashes=engine.prefix_caching)
        self.preemptions = 0
        self.just_preempted = False
        self.skipped: list[Call] = []
        self.view: HostView = None  # type: ignore[assignment]  # set by the host
        self._config = engine
        self._policy = policy
        self._free_recompute = config.free_recompute
        self._watcher = watcher
        self._caching = engine.prefix_caching
        self._runs = 0
        self._preempted: list[Call] = []
        self._defers = engine.async_scheduling and engine.cpu_blocks > 0
        self.deferred: deque[tuple[int, Holding]] = deque()
        self._admission = Admission(self, engine, policy, watcher)
        self._budgets = overrides(policy, "budget")
        self.fixed_limits: tuple[int, int] | None = None
        if not self._budgets and not engine.long_prefill_token_threshold:
            self.fixed_limits = engine.max_num_batched_tokens, 0
        self._victims = overrides(policy, "victim")
        stores = policy.store_when if overrides(policy, "store") and engine.cpu_blocks else ()
        self._stores_prompts = "prompt" in stores
        self._stores_outputs = "output" in stores
        self.explicit = not engine.jumps or self._stores_outputs

    def happened(self) -> None:
        """Something happened on which a policy's order may depend."""
        self._admission.changed = True

    def owed(self) -> int:
        """Blocks that admitted prefills and loads still have to take (``_inflight_prefill_reserved_blocks``)."""
        size = self.block_size
        calls = self.prefilling + [call for call in self.loading if call.status is Status.LOADING]
        return sum(-(-call.tokens // size) - call.holding.blocks for call in calls)

    def enqueue(self, call: Call) -> None:
        """A call arrives at the tail of the queue (``add_request``)."""
        self.waiting[call] = None

    # -- one step --------------------------------------------------------------------------------

    def schedule(self) -> Step | None:
        """Plan the next step; None if there is nothing to compute."""
        budget, cap = self.fixed_limits or self.limits()
        decodes = self.decodes
        step = Step(decodes.tick)
        self.skipped = []
        if self.explicit or not self._run_fast(step, budget, cap):
            self._run_explicit(step, budget, cap)
        self._admission.short = False
        if self._preempted:  # here, or by a policy since the last plan
            step.preempted = True
            self._preempted.clear()
        self.just_preempted = step.preempted
        if (self.waiting or self.loading) and not step.preempted and budget > step.tokens:
            self._admission.admit(step, budget - step.tokens, cap)
        if not step.tokens:
            return None
        if decodes.next_end == decodes.tick:
            ended = decodes.pop_ended()
            step.finishers = ended if not step.finishers else _in_order([*step.finishers, *ended])
        return step

    @property
    def short(self) -> bool:
        """Whether memory, or a reservation, kept a call out of the last plan."""
        return self._admission.short

    def need(self, call: Call) -> Need | None:
        """What a waiting call would take now, with the configured budget; None if it cannot start."""
        if call not in self.waiting or call.program.parked:
            return None
        config = self._config
        return self._admission.need(call, config.max_num_batched_tokens, config.long_prefill_token_threshold)

    def preempt(self, call: Call) -> None:
        """Take a running call's memory; it waits at the head and recomputes (``_preempt_request``)."""
        yields = True
        if call.decoding:
            self.decodes.leave(call)
            self._hash_returned(call)
        elif call in self.prefilling:
            self.prefilling.remove(call)
            yields = False
        self.running.remove(call)
        call.known = call.produced
        for step in self.inflight:
            if call.last_step == step.number:
                call.known -= yields
                step.stale = [*step.stale, (call, yields)]
        call.produced = call.known
        self.happened()
        if self._free_recompute:
            call.holding.chain.computed_before(call.computed // self.block_size)
        self._let_go(call)
        call.lose(call.computed)
        self.preemptions += 1
        self.waiting[call] = None
        self.waiting.move_to_end(call, last=False)
        self._preempted.append(call)
        self._watcher.preempted(call)

    def _let_go(self, call: Call) -> None:
        """Release a preempted call's blocks, once no step in flight writes them (``_free_request_blocks``)."""
        if self._can_be_freed(call):
            self.pool.release(call.holding)
            return
        self.deferred.append((self.inflight[-1].number, call.holding))
        call.holding = Holding(call.holding.chain, call)

    def _can_be_freed(self, call: Call) -> bool:
        """With asynchronous scheduling a copy to the GPU might overtake what a step in flight writes."""
        return not (self._defers and self.inflight and call.last_step >= self.inflight[0].number)

    def ended(self, step: Step) -> None:
        """A step has ended: what waited for it is released (``_drain_deferred_frees``)."""
        while self.deferred and self.deferred[0][0] <= step.number:
            self.pool.release(self.deferred.popleft()[1])

    def returned(self, before: int = NEVER) -> None:
        """Outputs have returned: those of calls that the last plan left out may complete blocks, which is known now.

        Args:
            before: Only those of calls that come before this place in the running order have.
        """
        for call in self.skipped:
            if call.decoding and call.run_order < before:
                self._hash_returned(call)

    def finish(self, call: Call) -> None:
        """Take a call that has all its outputs off the lists; its blocks stay with it."""
        self.happened()
        if call.status is Status.RUNNING:
            self.running.remove(call)
            full = (call.prompt + call.output - 1) // self.block_size
            self.pool.grow(call.holding, full)
            if self._free_recompute:
                call.holding.chain.computed_before(full)
        else:
            del self.waiting[call]

    # -- running calls ---------------------------------------------------------------------------

    def limits(self) -> tuple[int, int]:
        """Token budget and chunk cap of the step that is planned next."""
        config = self._config
        budget, cap = config.max_num_batched_tokens, config.long_prefill_token_threshold
        if self._budgets:
            limits = self._policy.budget(self.view)
            if limits is not None:
                budget, cap = min(budget, limits.tokens), limits.chunk
        if cap and len(self.running) + len(self.waiting) + len(self.loading) <= 1:
            cap = 0
        return budget, cap

    def _run_fast(self, step: Step, budget: int, cap: int) -> bool:
        """Plan the running calls without asking each decode; False if that cannot be done."""
        decodes = self.decodes
        pool = self.pool
        size = self.block_size
        batch = decodes.size
        if batch > budget:
            return False
        tick = decodes.tick
        blocks = decodes.boundary[tick % size]
        chunks: list[tuple[Call, int, int]] = []
        if self.prefilling:
            left = budget - batch
            for call in self.prefilling:
                computed = call.computed
                tokens = call.prompt + call.known - computed
                if cap and tokens > cap:
                    tokens = cap
                if tokens > left:
                    if decodes.last_order > self.prefilling[0].run_order:
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
            pool.take(self.spare, blocks)
        if chunks and self._caching:
            for call, _, _ in chunks:
                decodes.sync_growers(call.holding.chain)
        decodes.tick = tick + 1
        decodes.lag = len(self.inflight)
        for call, tokens, need in chunks:
            if self._caching:
                decodes.sync_growers(call.holding.chain, before=call.run_order)
            if need:
                pool.move(self.spare, call.holding, need)
            self._chunk(step, call, tokens)
        return True

    def _run_explicit(self, step: Step, budget: int, cap: int) -> None:
        """Plan the running calls one by one, as vLLM does."""
        decodes, pool, size = self.decodes, self.pool, self.block_size
        running = self.running
        scheduled: dict[Call, int] = {}
        index, left = 0, budget
        for call in running:
            if call.decoding:
                decodes.sync(call)
                self._hash_returned(call)
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
            while need > pool.free:
                victim = self._victim(need, call)
                if not self._can_be_freed(victim):
                    break
                at = running.index(victim)
                left += scheduled.pop(victim, 0)
                self.preempt(victim)
                if at < index:
                    index -= 1
                if victim is call:
                    break
            if call.status is not Status.RUNNING or need > pool.free:
                break
            if need:
                pool.take(call.holding, need)
            scheduled[call] = tokens
            left -= tokens
            index += 1
            self._hash_scheduled(call, tokens)
        self.skipped = skipped = [c for c in running if c.decoding and c not in scheduled]
        for call in skipped:
            decodes.leave(call)
        step.decodes = decodes.size
        step.context = decodes.context()
        step.tokens = decodes.size
        decodes.tick += 1
        decodes.lag = len(self.inflight)
        for call in skipped:
            decodes.join(call)
        for call, tokens in scheduled.items():
            if not call.decoding:
                self._chunk(step, call, tokens)
            elif self._stores_outputs and call.holding.hashed > call.offered:
                call.offered = call.holding.hashed
                self._watcher.computed(call, "output")

    def _hash_scheduled(self, call: Call, tokens: int) -> None:
        """Hash the blocks that complete in this step, as vLLM does when it allocates."""
        if call.decoding:
            late = bool(self.inflight) and call.last_step >= self.inflight[0].number
            full = (call.prompt + call.produced - late) // self.block_size
        else:
            full = (call.computed + tokens) // self.block_size
        if full > call.holding.hashed:
            self.pool.grow(call.holding, full)
            if call.decoding:
                self.decodes.watch(call)

    def _hash_returned(self, call: Call) -> None:
        """Hash what the returned outputs of a decoding call complete.

        A call that was left out of steps has it done when its outputs return (``AsyncScheduler``
        ``_update_request_with_output``), not when it is scheduled next.
        """
        late = bool(self.inflight) and call.last_step >= self.inflight[0].number
        full = (call.prompt + call.produced - 1 - late) // self.block_size
        if full > call.holding.hashed and self._caching:
            self.pool.grow(call.holding, full)
            if call.decoding:
                self.decodes.watch(call)

    def _chunk(self, step: Step, call: Call, tokens: int) -> None:
        """Compute ``tokens`` more of a call's known tokens in this step; it holds the blocks for them."""
        holding = call.holding
        computed = call.computed
        done = computed + tokens
        if self._free_recompute:
            known = holding.chain.computed_before(done // self.block_size) * self.block_size
            if known < done:
                start = max(known, computed)
                step.prefill = [*step.prefill, (done - start, start)]
        else:
            step.prefill = [*step.prefill, (tokens, computed)]
        step.tokens += tokens
        if self._caching:
            full = done // self.block_size
            if full > holding.hashed:
                self.pool.grow(holding, full)
        call.computed = done
        call.last_step = step.number
        if call.reached > computed:
            call.recomputed += min(done, call.reached) - computed
        call.offered = holding.hashed
        if self._stores_prompts:
            self._watcher.computed(call, "prompt")
        if done == call.prompt + call.known:
            self.prefilling.remove(call)
            call.produced += 1
            if call.first_token_ps < 0:
                step.firsts = [*step.firsts, call]
            if call.produced == call.output:
                step.finishers = [*step.finishers, call]
            else:
                self.decodes.join(call)

    def _victim(self, need: int, call: Call) -> Call:
        if not self._victims:
            return self.running[-1]
        chosen = self._policy.victim(self.view, need, self.view.call(call))
        victim = self.view.find(chosen.id)
        if victim is None or victim.status is not Status.RUNNING:
            self._watcher.refuse_admission(call, f"victim {chosen.id} is not running")
            return self.running[-1]
        return victim

    def start(self, step: Step, call: Call, tokens: int) -> None:
        """Put a call on the running list and compute its first chunk."""
        call.status = Status.RUNNING
        self._runs += 1
        call.run_order = self._runs
        self.running.append(call)
        self.prefilling.append(call)
        holding = call.holding
        need = -(-(call.computed + tokens) // self.block_size) - holding.hashed - holding.private
        if need:
            self.pool.take(holding, need)
        self._chunk(step, call, tokens)


def _in_order(calls: list[Call]) -> list[Call]:
    return sorted(calls, key=lambda call: call.run_order)
