"""One step of the vLLM 0.32 scheduler, for dense full-attention models.

``vllm/v1/core/sched/scheduler.py::Scheduler.schedule``: every call has ``computed`` tokens that
catch up with its known ``tokens``; there is no separate prefill phase. Running calls come first, in
list order, and preempt the last one when memory is short; then, if nobody was preempted, waiting
calls are admitted until one does not fit.

This module keeps the queues. What running calls compute is in :mod:`tokencake.sim.compute`, which waiting
calls start in :mod:`tokencake.sim.admission`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from mypy_extensions import mypyc_attr

from tokencake.policies.api import Need, Policy, overrides
from tokencake.sim.admission import Admission
from tokencake.sim.calls import Call, Status
from tokencake.sim.chains import Chain
from tokencake.sim.compute import Compute
from tokencake.sim.config import NEVER
from tokencake.sim.decode import DecodeSet
from tokencake.sim.extents import Holding
from tokencake.sim.step import Step, Watcher

if TYPE_CHECKING:
    from tokencake.sim.blocks import BlockPool
    from tokencake.sim.config import SimConfig
    from tokencake.sim.kv import RunPool
    from tokencake.sim.view import HostView


@mypyc_attr(allow_interpreted_subclasses=True)
class Scheduler:
    """Queues, running calls and memory of one engine.

    Attributes:
        waiting: Calls without KV, in queue order.
        loading: Calls that hold blocks while a copy from the CPU tier fills them (vLLM
            ``kv_holding_waiting``).
        running: Calls in scheduling order.
        compute: What they compute in a step.
        inflight: Steps scheduled but not ended.
        fixed_limits: Token budget and chunk cap, if they are the same in every step.
        deferred: Blocks of preempted calls that steps in flight still write, and the step to wait for.
        just_preempted: The last plan preempted a call; it admitted none, but the next one may.
        skipped: Decoding calls that the last plan left out.
        view: What the policy is shown; the host sets it.
    """

    view: HostView

    def __init__(
        self,
        config: SimConfig,
        policy: Policy,
        pool: RunPool | BlockPool,
        watcher: Watcher,
    ):
        self._config = engine = config.engine
        self.pool = pool
        self.block_size = engine.block_size
        self.waiting: OrderedDict[Call, None] = OrderedDict()
        self.loading: list[Call] = []
        self.running: list[Call] = []
        self.prefilling: list[Call] = []
        self.inflight: deque[Step] = deque()
        self.spare = Holding(Chain([], 0))  # blocks of decoding calls, not synced
        self.decodes = self._make_decodes()
        self.preemptions = 0
        self.just_preempted = False
        self.skipped: list[Call] = []
        self._policy = policy
        self._free_recompute = config.free_recompute
        self._watcher = watcher
        self._preempted: list[Call] = []
        self._defers = engine.async_scheduling and engine.cpu_blocks > 0
        self.deferred: deque[tuple[int, Holding]] = deque()
        self.compute = Compute(self, config, policy, watcher)
        self._admission = Admission(self, engine, policy, watcher)
        self._budgets = overrides(policy, "budget")
        self.fixed_limits: tuple[int, int] | None = None
        if not self._budgets and not engine.long_prefill_token_threshold:
            self.fixed_limits = engine.max_num_batched_tokens, 0
        self._victims = overrides(policy, "victim")
        self.explicit = not engine.jumps or self.compute.stores_outputs

    def _make_decodes(self) -> DecodeSet:
        """What keeps decoding calls up to date; a scheduler that has vLLM makes its own."""
        return DecodeSet(self.pool, self.block_size, self.spare, hashes=self._config.prefix_caching)

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
        if self.explicit or not self.compute.together(step, budget, cap):
            self.compute.one_by_one(step, budget, cap)
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
            step.finishers = ended if not step.finishers else in_order([*step.finishers, *ended])
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
            self.compute.hash_returned(call)
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
        if self.can_be_freed(call):
            self.pool.release(call.holding)
            return
        self.deferred.append((self.inflight[-1].number, call.holding))
        call.holding = Holding(call.holding.chain, call)

    def can_be_freed(self, call: Call) -> bool:
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
                self.compute.hash_returned(call)

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

    # -- limits and victims of a step ---------------------------------------------------------------------------

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

    def choose_victim(self, need: int, call: Call) -> Call:
        """Which running call loses its memory to ``call``: the last one, unless the policy says."""
        if not self._victims:
            return self.running[-1]
        chosen = self._policy.victim(self.view, need, self.view.call(call))
        victim = self.view.find(chosen.id)
        if victim is None or victim.status is not Status.RUNNING:
            self._watcher.refuse_admission(call, f"victim {chosen.id} is not running")
            return self.running[-1]
        return victim


def in_order(calls: list[Call]) -> list[Call]:
    """Calls of a step as they were scheduled in it."""
    return sorted(calls, key=lambda call: call.run_order)
