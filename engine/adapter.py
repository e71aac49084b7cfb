"""Answers vLLM's scheduler with a policy, and keeps the host's picture of its calls up to date.

The host (:class:`tokencake.sim.host.Host` and its parts: programs, pins, transfers, liveness, views,
result rows) knows calls; vLLM knows requests. :class:`EngineScheduler` stands where the host expects
its scheduler: it hands every plan to vLLM and writes down what vLLM did.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tokencake.engine.contents import block_hasher
from tokencake.engine.memory import EnginePool
from tokencake.engine.requests import make_request
from tokencake.engine.scheduler import Asking
from tokencake.policies.api import Policy, overrides
from tokencake.sim.calls import Call, Status
from tokencake.sim.config import NEVER, PS
from tokencake.sim.decode import DecodeSet
from tokencake.sim.scheduler import Scheduler
from tokencake.sim.step import Step

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request

    from tokencake.engine.contents import HashedChain
    from tokencake.engine.host import EngineHost
    from tokencake.sim.chains import Chain
    from tokencake.sim.config import SimConfig

_ORDERED = ("order", "admit", "place", "observe")  # hooks for which the policy's queue replaces vLLM's


class EngineStep(Step):
    """A step that vLLM planned.

    Attributes:
        planned: VLLM's plan.
        outputs: Calls with tokens in it, in scheduled order, and the number of the output that each
            yields; None if its prompt is not complete.
        result: What the model returned, as vLLM's ``ModelRunnerOutput``.
    """

    __slots__ = ("outputs", "planned", "result")

    def __init__(self, number: int, planned: SchedulerOutput):
        super().__init__(number)
        self.planned = planned
        self.outputs: list[tuple[Call, int | None]] = []
        self.result: Any = None


class Mirror(DecodeSet):
    """Brings a call up to date from vLLM's request, when somebody looks at it."""

    def __init__(self, scheduler: EngineScheduler):
        super().__init__(scheduler.pool, scheduler.block_size, scheduler.spare)
        self._scheduler = scheduler

    def sync(self, call: Call) -> None:
        """Bring tokens and blocks of one running call up to date."""
        scheduler = self._scheduler
        request = scheduler.requests[call.id]
        call.computed = request.num_computed_tokens + scheduler.tokens_admitted(call)
        call.produced = max(call.known, call.computed - call.prompt + 1)
        scheduler.show_blocks(call)

    def sync_growers(self, chain: Chain, before: int = NEVER) -> None:
        """VLLM hashes blocks by itself."""


class EngineScheduler(Scheduler):
    """VLLM's scheduler, in the place of the simulator's.

    Args:
        config: Engine, hardware and replay.
        policy: Decides.
        pool: VLLM's block pool, as the host sees it.
        host: What the scheduler works for.
        vllm: The scheduler itself.
        native: Let vLLM's own queue order and choose victims, whatever the policy overrides.

    Attributes:
        requests: VLLM's requests by the id of their call.
        calls: The calls, by the same ids.
        copies: What the plan says to vLLM's connector, if there is a CPU tier.
    """

    pool: EnginePool

    def __init__(
        self, config: SimConfig, policy: Policy, pool: EnginePool, host: EngineHost, vllm: Asking, *, native: bool
    ):
        super().__init__(config, policy, pool, host)
        self._host = host
        self.vllm = vllm
        self.requests: dict[str, Request] = {}
        self.calls: dict[str, Call] = {}
        self.priorities = native
        self.explicit = True
        self._hasher = block_hasher(self.block_size)
        self._keeps_calls = overrides(policy, "evict_order")
        self._admitting = False
        self._delivered_ps = 0
        self.copies: Any = None
        self._takes_blocks = overrides(policy, "place")
        vllm.attach(
            self,
            ordered=not native and any(overrides(policy, hook) for hook in _ORDERED),
            victims=not native and overrides(policy, "victim"),
        )

    def _make_decodes(self) -> Mirror:
        """Decoding calls are vLLM's."""
        return Mirror(self)

    # -- calls and requests ----------------------------------------------------------------------

    def enqueue(self, call: Call) -> None:
        """A call arrives: give vLLM its request."""
        chain: HashedChain = call.holding.chain  # type: ignore[assignment]
        request = make_request(
            call.id,
            chain.prompt,
            call.output,
            self._hasher,
            priority=self._priority(call) if self.priorities else 0,
            arrival_s=call.arrival_ps / PS,
        )
        self.requests[call.id] = request
        self.calls[call.id] = call
        self.waiting[call] = None
        self.vllm.add_request(request)

    def _priority(self, call: Call) -> int:
        """Rank of a program's arrival time: programs that arrive at once are equal."""
        return call.program.arrival_ps

    def owed(self) -> int:
        """See :meth:`tokencake.sim.scheduler.Scheduler.owed`."""
        return self.vllm._inflight_prefill_reserved_blocks()

    def show_blocks(self, call: Call) -> None:
        """Let a call's holding show what vLLM holds for it."""
        self.pool.hold(call.holding, self.vllm.kv_cache_manager.get_blocks(call.id).blocks[0])

    def running_planned(self) -> None:
        """All running calls have their tokens of this plan: from now on they count."""
        self._admitting = True

    def tokens_admitted(self, call: Call) -> int:
        """Tokens of the plan under way that vLLM has not added to its own count yet.

        While running calls are planned nothing counts before all of them are, as in the simulator.
        """
        return self.vllm.planned.get(call.id, 0) if self._admitting else 0

    # -- one step ----------------------------------------------------------------------------------

    def schedule(self) -> Step | None:
        """Let vLLM plan the next step; None if there is nothing to compute.

        A step with tokens is run by the host, once its copies are under way.
        """
        self._admission.short = False
        self._admitting = False
        planned = self.vllm.schedule()
        self.copies = planned.kv_connector_metadata
        step = EngineStep(self.decodes.tick, planned)
        self.just_preempted = step.preempted = bool(self._preempted)
        self._preempted.clear()
        for name, tokens in planned.num_scheduled_tokens.items():
            self._note(step, self.calls[name], tokens)
        self.decodes.tick += 1
        if step.tokens:
            return step
        step.result, _ = self._host.execute(step)
        self.vllm.update_from_output(planned, step.result)
        return None

    def deliver(self, step: EngineStep) -> None:
        """A step has ended: let vLLM process its outputs; it reports the calls that end."""
        self._delivered_ps = step.end_ps
        self.vllm.update_from_output(step.planned, step.result)

    def _note(self, step: EngineStep, call: Call, tokens: int) -> None:
        """Write down what vLLM scheduled of one call."""
        request = self.requests[call.id]
        done = request.num_computed_tokens
        computed = done - tokens
        yields = not request.is_prefill_chunk
        step.tokens += tokens
        step.outputs.append((call, done - call.prompt if yields else None))
        if call in self.prefilling:
            step.prefill = [*step.prefill, (tokens, computed)]
            if call.reached > computed:
                call.recomputed += min(done, call.reached) - computed
            if yields:
                self.prefilling.remove(call)
                if call.first_token_ps < 0:
                    step.firsts = [*step.firsts, call]
        else:
            step.decodes += 1
            step.context += computed + 1
        call.last_step = step.number
        if self._takes_blocks:
            self.show_blocks(call)

    def preempt(self, call: Call) -> None:
        """A policy preempts a running call."""
        self.vllm.preempt(self.requests[call.id])

    def finish(self, call: Call) -> None:
        """A call has all its outputs; whoever places KV takes its blocks over from vLLM."""
        self.happened()
        if call.status is Status.RUNNING:
            self.running.remove(call)
            call.decoding = False
        else:
            del self.waiting[call]
        request = self.requests.pop(call.id)
        if not self._keeps_calls:
            del self.calls[call.id]
        if self._takes_blocks:
            manager = self.vllm.kv_cache_manager
            self.pool.hold(call.holding, manager.get_blocks(call.id).blocks[0])
            manager.pop_blocks_for_free(request)
        else:
            self.pool.hold(call.holding, ())

    # -- what vLLM asks (Hooks) ----------------------------------------------------------------------

    def offers(self) -> Iterator[Request]:
        """Waiting requests that the policy admits, in its order."""
        self._admitting = True
        cap = self.vllm.scheduler_config.long_prefill_token_threshold
        self._admission.left = self.vllm.tokens_left
        for offer in self._admission.offers(cap):
            yield self.requests[offer.call.id]
            self._admission.left = self.vllm.tokens_left

    def has_room(self, request: Request, blocks: int) -> bool:
        """See :class:`tokencake.engine.scheduler.Hooks`."""
        return self._watcher.room(self.calls[request.request_id], blocks)

    def victim(self, need: int, request: Request) -> Request:
        """See :class:`tokencake.engine.scheduler.Hooks`."""
        return self.requests[self.choose_victim(need, self.calls[request.request_id]).id]

    def refused(self, request: Request) -> None:
        """See :class:`tokencake.engine.scheduler.Hooks`."""
        call = self.calls[request.request_id]
        self._admission.short = True
        if call in self.waiting:
            self._admission.refuse(call)

    def started(self, request: Request, hit: int, loaded: int) -> None:
        """See :class:`tokencake.engine.scheduler.Hooks`."""
        call = self.calls[request.request_id]
        self._admitting = True
        self._admission.entered(call, hit, loaded)
        if loaded:
            call.computed = request.num_computed_tokens
            call.status = Status.LOADING
            self.loading.append(call)
            self.show_blocks(call)
        else:
            self._runs_now(call)
        self._watcher.admitted(call)

    def resumed(self, request: Request) -> None:
        """See :class:`tokencake.engine.scheduler.Hooks`."""
        self._admitting = True
        call = self.calls[request.request_id]
        self.loading.remove(call)
        self._runs_now(call)

    def _runs_now(self, call: Call) -> None:
        call.status = Status.RUNNING
        call.decoding = True
        self.running.append(call)
        self.prefilling.append(call)

    def preempted(self, request: Request, computed: int) -> None:
        """See :class:`tokencake.engine.scheduler.Hooks`."""
        call = self.calls[request.request_id]
        call.decoding = False
        self.running.remove(call)
        prefilling = call in self.prefilling
        if prefilling:
            self.prefilling.remove(call)
        call.known = max(call.known, computed - call.prompt + 1)
        for step in self.inflight:
            if call.last_step == step.number:
                call.known -= not prefilling
                step.stale = [*step.stale, (call, not prefilling)]
        call.produced = call.known
        self.happened()
        self.pool.hold(call.holding, ())
        call.lose(computed)
        self.preemptions += 1
        self.waiting[call] = None
        self.waiting.move_to_end(call, last=False)
        self._preempted.append(call)
        self._watcher.preempted(call)

    def finished(self, request: Request) -> None:
        """See :class:`tokencake.engine.scheduler.Hooks`."""
        self._host.finish(self.calls[request.request_id], self._delivered_ps)
