"""VLLM's scheduler, unpatched, that asks a policy at every decision.

``PolicyScheduler`` and ``PolicyAsyncScheduler`` are what ``scheduler_cls`` names, with a model or
without. As built they are vLLM's own. A host calls :meth:`Asking.attach` before the first request and
is asked from then on (:class:`Hooks`); :mod:`tokencake.engine.adapter` answers with a policy.

How each decision is made without a copy of ``schedule``:

======================  ===========================================================================
order, admit, PARK      the waiting queue asks when vLLM looks for the next request (``queue.py``)
RESERVE                 ``allocate_slots`` is refused to a waiting request
budget                  ``max_num_scheduled_tokens`` and the chunk cap are set for one plan
victim                  vLLM's priority path; priorities are written when ``allocate_slots`` fails
PREEMPT                 ``_preempt_request`` between two plans; the next plan admits nobody
KEEP, OFFLOAD, DROP     ``_connector_finished``, where a finished request still has its blocks
evict_order             a block pool that chooses what to reuse (``memory.py``)
store                   the offloading connector's ``_calc_num_offloadable_tokens`` (``offloading.py``)
======================  ===========================================================================

Who moves bytes is not decided here: a transfer begins with ``Host.link.start`` and its end is
reported by ``Host.link.collect`` (:class:`tokencake.sim.link.Link` in virtual time; a host with a
device gives an object with the same methods that copies between tensors).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.request_queue import SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from tokencake.engine.memory import WatchedBlockPool
from tokencake.engine.queue import HoldingQueue, PolicyQueue

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput


class Hooks(Protocol):
    """What a scheduler asks and reports."""

    def limits(self) -> tuple[int, int]:
        """Token budget of the coming plan, and the most tokens of one prefill (0: no cap)."""

    def offers(self) -> Iterator[Request]:
        """Waiting requests to try, one after the other; asked anew for every plan."""

    def has_room(self, request: Request, blocks: int) -> bool:
        """Whether reservations leave a waiting request ``blocks`` blocks."""

    def victim(self, need: int, request: Request) -> Request:
        """Running request to preempt because ``request`` lacks memory for ``need`` blocks."""

    def refused(self, request: Request) -> None:
        """A waiting request did not fit; nobody else is admitted in this plan."""

    def started(self, request: Request, hit: int, loaded: int) -> None:
        """A waiting request was admitted, with ``hit`` blocks of its own and ``loaded`` to come."""

    def resumed(self, request: Request) -> None:
        """A request whose load is done runs."""

    def preempted(self, request: Request, computed: int) -> None:
        """A request lost its memory, which held ``computed`` tokens."""

    def finished(self, request: Request) -> None:
        """A request has its last output and still holds its blocks."""


class OrderedNames(dict[str, None]):
    """A set that keeps its order: vLLM stores for requests that ended in the order of a set of strings."""

    def add(self, name: str) -> None:
        """Add a name at the end."""
        self[name] = None


class Asking(Scheduler):
    """Asks hooks; see the module.

    Attributes:
        hooks: Asked and told; None: vLLM as it is.
        admitting: A plan is under way.
        closed: The coming plan, or the one under way, admits nobody.
        planned: Tokens of the plan under way, by request id.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.hooks: Any = None
        self.admitting = self.closed = False
        self.planned: dict[str, int] = {}
        self.tokens_left = 0
        self.pool = WatchedBlockPool.watch(self.kv_cache_manager.block_pool)
        self._started: list[tuple[Request, int, int]] = []
        self._deferred_owners: deque[str] = deque()

    def attach(self, hooks: Hooks, *, ordered: bool, victims: bool) -> None:
        """Ask ``hooks`` from now on; no request may have been added yet.

        Args:
            hooks: Answers.
            ordered: Ask which waiting requests to try; else vLLM's own queue decides.
            victims: Ask whom to preempt; else vLLM decides.
        """
        assert not self.requests, "attach before the first request"
        self.hooks = hooks
        self.finished_req_ids = OrderedNames()
        if ordered:
            self.waiting = PolicyQueue(self)
            self.kv_holding_waiting = HoldingQueue(self)
        if victims:
            self.policy = SchedulingPolicy.PRIORITY
        self._asks_victim = victims
        self._ordered = ordered
        self._allocate = self.kv_cache_manager.allocate_slots
        self.kv_cache_manager.allocate_slots = self._allocate_slots

    # -- a plan ----------------------------------------------------------------------------------

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        """Plan a step within the policy's limits."""
        if self.hooks is None:
            return super().schedule(*args, **kwargs)
        config = self.scheduler_config
        configured = vars(self)["max_num_scheduled_tokens"], config.long_prefill_token_threshold
        tokens, cap = self.hooks.limits()
        self.max_num_scheduled_tokens = self.tokens_left = max(0, tokens)
        config.long_prefill_token_threshold = cap
        self.admitting = True
        if self._ordered:
            self.waiting.begin()
        try:
            return super().schedule(*args, **kwargs)
        finally:
            self.max_num_scheduled_tokens, config.long_prefill_token_threshold = configured
            self.admitting = self.closed = False

    def _allocate_slots(self, request: Request, num_new_tokens: int, **kwargs: Any) -> Any:
        """``KVCacheManager.allocate_slots``, with reservations before it and a victim after it."""
        if request.status is RequestStatus.RUNNING:
            blocks = self._allocate(request, num_new_tokens, **kwargs)
            if blocks is None and self._asks_victim:
                self._choose_victim(request, num_new_tokens)
            elif blocks is not None:
                self._plan(request, num_new_tokens)
            return blocks
        entering = request.num_computed_tokens == 0
        found = kwargs.get("new_computed_blocks")
        hits = list(found.blocks[0]) if found is not None else []
        if entering and not self.hooks.has_room(request, self._full_need(request, hits)):
            self.hooks.refused(request)
            return None
        blocks = self._allocate(request, num_new_tokens, **kwargs)
        if blocks is None:
            self.hooks.refused(request)
            return None
        loaded = kwargs.get("num_external_computed_tokens", 0) // self.block_size if entering else -1
        self._started.append((request, len(hits), loaded))
        self._plan(request, num_new_tokens)
        return blocks

    def _plan(self, request: Request, tokens: int) -> None:
        self.planned[request.request_id] = tokens
        self.tokens_left -= tokens

    def _full_need(self, request: Request, hits: list[Any]) -> int:
        """Free blocks that all known tokens of a waiting request take, unheld hits included."""
        unheld = sum(block.ref_cnt == 0 for block in hits)
        return -(-request.num_tokens // self.block_size) - len(hits) + unheld

    def _choose_victim(self, request: Request, num_new_tokens: int) -> None:
        """Make vLLM's priority path preempt whom the policy names."""
        held = len(self.kv_cache_manager.get_blocks(request.request_id).blocks[0])
        need = -(-(request.num_computed_tokens + num_new_tokens) // self.block_size) - held
        chosen = self.hooks.victim(need, request)
        for running in self.running:
            running.priority = int(running is chosen)

    def tell_started(self) -> None:
        """Report the requests admitted since the last time; vLLM has put them on its lists."""
        started, self._started = self._started, []
        for request, hit, loaded in started:
            if loaded < 0:
                self.hooks.resumed(request)
            else:
                self.hooks.started(request, hit, loaded)

    def _build_kv_connector_meta(self, connector: Any, scheduler_output: SchedulerOutput) -> Any:
        if self.hooks is not None:
            self.tell_started()
        return super()._build_kv_connector_meta(connector, scheduler_output)

    def _update_after_schedule(self, scheduler_output: SchedulerOutput) -> None:
        if self.hooks is not None:
            self.tell_started()
            self.planned.clear()
        super()._update_after_schedule(scheduler_output)
        if self.hooks is not None:
            self.finished_req_ids = OrderedNames()

    # -- ends --------------------------------------------------------------------------------------

    def preempt(self, request: Request) -> None:
        """Preempt a running request between two plans; the next plan admits nobody."""
        self.running.remove(request)
        self._preempt_request(request, time.monotonic())
        self.prev_step_scheduled_req_ids.discard(request.request_id)
        self.closed = True

    def _preempt_request(self, request: Request, *args: Any, **kwargs: Any) -> None:
        computed = request.num_computed_tokens
        super()._preempt_request(request, *args, **kwargs)
        if self.hooks is not None:
            if self._asks_victim:
                request.priority = 0
            self.tokens_left += self.planned.pop(request.request_id, 0)
            self.hooks.preempted(request, computed)

    def _connector_finished(self, request: Request) -> tuple[bool, dict[str, Any] | None]:
        answer = super()._connector_finished(request)
        if self.hooks is not None:
            self.hooks.finished(request)
        return answer

    def _free_request_blocks(self, request: Request) -> None:
        if self.hooks is None:
            super()._free_request_blocks(request)
            return
        deferred = len(self.deferred_frees)
        with self.pool.released_by(request.request_id):
            super()._free_request_blocks(request)
        if len(self.deferred_frees) > deferred:
            self._deferred_owners.append(request.request_id)

    def _drain_deferred_frees(self) -> None:
        if self.hooks is None:
            super()._drain_deferred_frees()
            return
        while self.deferred_frees and self.deferred_frees[0][0] <= self.processed_step_seq:
            blocks = self.deferred_frees.popleft()[1]
            with self.pool.released_by(self._deferred_owners.popleft()):
                self.pool.free_blocks(reversed(blocks))


class PolicyScheduler(Asking):
    """Synchronous."""


class PolicyAsyncScheduler(Asking, AsyncScheduler):
    """A step is planned while the one before it runs."""
