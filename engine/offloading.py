"""Stores on compute and loads on hit, decided by vLLM's own offloading connector.

The scheduler side of ``OffloadingConnector`` runs as it is. Its worker side is replaced: a job that
vLLM builds becomes a transfer on the host's link, and the transfer's end is reported as a worker
would. Where a policy overrides ``store``, it says how many leading blocks the connector may copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.common import OffloadingWorkerMetadata
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.scheduler import OffloadingConnectorScheduler
from vllm.distributed.kv_transfer.kv_connector.v1.offloading_connector import OffloadingConnector
from vllm.v1.outputs import KVConnectorOutput

from tokencake.engine.tier import CountedManager, key_of, runs_of
from tokencake.policies.api import overrides
from tokencake.sim.calls import Call, Status
from tokencake.sim.clock import Priority
from tokencake.sim.offload import Offloading
from tokencake.sim.store_job import StoreJob
from tokencake.sim.transfer import Transfer

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request

    from tokencake.engine.host import EngineHost
    from tokencake.sim.config import EngineConfig
    from tokencake.sim.extents import Match
    from tokencake.sim.step import Step


class AskingConnectorScheduler(OffloadingConnectorScheduler):
    """The connector's scheduler side, that asks how much of a request may be stored.

    Attributes:
        asked: Answers; None: vLLM's own rule.
    """

    asked: EngineOffloading | None = None

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> Any:
        """Decide on stores, now that the plan is complete."""
        if self.asked is not None:
            self.asked.begin()
        return super().build_connector_meta(scheduler_output)

    def _calc_num_offloadable_tokens(self, req_status: Any, num_computed_tokens: int) -> int:
        most = super()._calc_num_offloadable_tokens(req_status, num_computed_tokens)
        if self.asked is None:
            return most
        stored = req_status.group_states[0].next_stored_chunk_idx
        return min(most, self.asked.wanted(req_status.req, stored))


class AskingConnector(OffloadingConnector):
    """VLLM's offloading connector with :class:`AskingConnectorScheduler`."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any):
        super().__init__(vllm_config, role, kv_cache_config)
        if self.connector_scheduler is not None:
            self.connector_scheduler.__class__ = AskingConnectorScheduler


def transfer_config(engine: EngineConfig, block_bytes: int, *, prompt_only: bool) -> Any:
    """VLLM's configuration of a CPU tier.

    Args:
        engine: How many blocks it has.
        block_bytes: Size of a block's KV.
        prompt_only: VLLM's ``offload_prompt_only``; a policy that is asked decides by itself.
    """
    from vllm.config import KVTransferConfig

    return KVTransferConfig(
        kv_connector="AskingConnector",
        kv_connector_module_path=__name__,
        kv_role="kv_both",
        kv_connector_extra_config={
            "spec_name": "CountedSpec",
            "spec_module_path": "tokencake.engine.tier",
            "cpu_bytes_to_use": engine.cpu_blocks * block_bytes,
            "cpu_blocks": engine.cpu_blocks,
            "offload_prompt_only": prompt_only,
        },
    )


class Job:
    """A transfer job of vLLM.

    Attributes:
        number: VLLM's number.
        call: Whose blocks.
        order: What vLLM's worker would be told: blocks of the engine and of the tier.
        blocks: How many.
        runs: Stretches of consecutive blocks of the call.
        transfer: On the link, once it has been submitted.
    """

    __slots__ = ("blocks", "call", "number", "order", "runs", "transfer")

    def __init__(self, number: int, order: Any, call: Call, numbers: list[int]):
        self.number = number
        self.order = order
        self.call = call
        self.blocks = len(numbers)
        self.runs = runs_of(numbers)
        self.transfer: Transfer | None = None


class EngineOffloading(Offloading):
    """Carries out the jobs of vLLM's connector, and asks the policy what may be stored.

    Args:
        host: The host.
        native: Let vLLM's own rule say what is stored.
    """

    def __init__(self, host: EngineHost, *, native: bool):
        super().__init__(host)
        self._engine = host
        self._connector: AskingConnectorScheduler = host.vllm.connector.connector_scheduler
        self._manager: CountedManager = self._connector.manager
        policy = host.policy
        self._asks = overrides(policy, "store") and not native
        self._when = policy.store_when if self._asks else ()
        if not native:
            self._connector.asked = self
        host.pool.on_taken = self._taken
        self._answers: dict[str, int] = {}
        self._last: dict[str, int] = {}
        self._causes: dict[str, str] = {}
        self._hashed: dict[str, int] = {}
        self._calls: dict[str, Call] = {}
        self._fenced: dict[StoreJob, list[int]] = {}
        self._overwritten: list[StoreJob] = []
        self._jobs: dict[int, Job] = {}
        self._ready: dict[int, list[Job]] = {}

    def _taken(self, numbers: list[int]) -> None:
        """Blocks are overwritten without a plan of vLLM: it must wait for stores that read them, as for its own."""
        self._connector._current_batch_allocated_block_ids.update(numbers)  # another set after every plan

    # -- what the policy wants stored ------------------------------------------------------------------

    def begin(self) -> None:
        """The connector decides on stores: the policy is asked once for each call."""
        self._answers.clear()
        self._engine.scheduler.running_planned()

    def wanted(self, request: Request, stored: int) -> int:
        """Leading tokens of a request that may be stored; ``stored`` blocks of it have been."""
        name = request.request_id
        if name not in self._answers:
            ended = request.is_finished()
            blocks = self._last.pop(name, 0) if ended else self._ask(self._engine.scheduler.calls[name], stored)
            self._answers[name] = blocks * self._host.config.engine.block_size
        return self._answers[name]

    def _ask(self, call: Call, stored: int) -> int:
        cause = self._cause(call)
        if not cause:
            return 0
        host = self._host
        self._causes[call.id] = cause
        wanted = host.policy.store(host.view, host.placement.chain_view(call), cause)
        wanted = min(wanted, call.holding.hashed)
        if wanted <= stored:
            self._manager.refused.pop(call.id, None)
        return wanted

    def _cause(self, call: Call) -> str:
        """Why a scheduled call is asked about; empty if it is not."""
        self._engine.scheduler.show_blocks(call)
        filled = call.holding.hashed > self._hashed.get(call.id, 0)
        self._hashed[call.id] = call.holding.hashed
        if call in self._engine.scheduler.prefilling:
            if "prompt" in self._when:
                return "prompt"
        elif filled and "output" in self._when:
            return "output"
        return self._causes[call.id] if call.id in self._manager.refused else ""

    def finished(self, call: Call) -> None:
        """A call ended: what may still be stored when the next step is planned."""
        self._hashed.pop(call.id, None)
        cause = self._causes.pop(call.id, "")
        if call.id not in self._manager.refused:
            cause = "finished" if "finished" in self._when else ""
        self._manager.refused.pop(call.id, None)
        self._calls[call.id] = call
        if not cause:
            return
        host = self._host
        wanted = host.policy.store(host.view, host.placement.chain_view(call), cause)
        self._last[call.id] = min(wanted, (call.prompt + call.output - 1) // host.config.engine.block_size)

    def started(self, call: Call) -> None:
        """VLLM notes by itself what a request got."""

    def preempted(self, call: Call) -> None:
        """VLLM waits for a preempted call's stores by itself."""
        self._manager.refused.pop(call.id, None)

    # -- what vLLM decided ---------------------------------------------------------------------------------

    def planned(self, step: Step | None, start_ps: int) -> int:
        """Carry out the connector's plan; see :meth:`tokencake.sim.offload.Offloading.planned`."""
        host, plan = self._host, self._engine.scheduler.copies
        flush = sorted(plan.jobs_to_flush or ())
        start_ps = self._flushed_jobs([n for n in flush if n not in plan.store_jobs], start_ps)
        for job in self._overwritten:
            if job.transfer is not None and job.transfer.state in ("moving", "queued"):
                start_ps = max(start_ps, host.link.promise_ps(job.transfer))
        self._overwritten.clear()
        for number, order in plan.store_jobs.items():
            made = self._make(number, order)
            made.call.stores += 1
            if step is None:
                self._submit_job(made)
            else:
                self._ready.setdefault(step.number, []).append(made)
        start_ps = self._flushed_jobs([n for n in flush if n in plan.store_jobs], start_ps)
        for number, order in plan.load_jobs.items():
            transfer = self._transfer(self._make(number, order), "h2d", "load", urgent=True)
            host.clock.at(start_ps, Priority.TRANSFER, host.link.start, transfer)
        self._calls.clear()
        skipped, self._manager.skipped = self._manager.skipped, 0
        if skipped:
            host.metrics.count("stores_skipped", skipped)
        return start_ps

    def _make(self, number: int, order: Any) -> Job:
        """A job that vLLM has just built."""
        call = self._calls.get(order.req_id) or self._engine.scheduler.calls[order.req_id]
        keys = self._connector._jobs[number].keys
        hashes = call.holding.chain.block_hashes  # type: ignore[attr-defined]
        job = Job(number, order, call, [i for i, found in enumerate(hashes) if key_of(found) in keys])
        self._jobs[number] = job
        return job

    def _flushed_jobs(self, numbers: list[int], start_ps: int) -> int:
        """When a step can start that overwrites blocks of these stores."""
        jobs = [self._jobs[number] for number in numbers if number in self._jobs]
        for job in jobs:
            if job.transfer is None:
                for ready in self._ready.values():
                    if job in ready:
                        ready.remove(job)
                self._submit_job(job)
        for job in jobs:
            assert job.transfer is not None
            if job.transfer.state in ("moving", "queued"):
                start_ps = max(start_ps, self._host.link.promise_ps(job.transfer))
        return start_ps

    def step_ended(self, step: Step) -> None:
        """The blocks of ``step`` are computed: their copies start."""
        for job in self._ready.pop(step.number, ()):
            self._submit_job(job)

    def _submit_job(self, job: Job) -> None:
        job.transfer = self._transfer(job, "d2h", "store", urgent=False)
        self._host.link.start(job.transfer)

    def _transfer(self, job: Job, way: Any, cause: str, *, urgent: bool) -> Transfer:
        size = job.blocks * self._host.config.block_bytes
        done = self._job_stored if way == "d2h" else self._job_loaded
        return Transfer(way, size, job.runs, cause, job, done, urgent=urgent)

    # -- copies that a policy starts and that hold nothing ----------------------------------------------------

    def fence(self, job: StoreJob, found: Match, transfer: Transfer) -> None:
        """Blocks that nobody holds are read by a transfer; a step that overwrites one waits for it."""
        job.transfer = transfer
        numbers: Any = found.parts
        read = [number for _, lo, hi in job.parts for number in numbers[lo:hi]]
        self._fenced[job] = read
        self._engine.pool.on_reuse_of(read, lambda _block: self._overwritten.append(job))

    def lift(self, job: StoreJob) -> None:
        """The transfer of a fence is over."""
        self._engine.pool.on_reuse_of(self._fenced.pop(job), None)

    # -- what a worker reports -------------------------------------------------------------------------------

    def _job_stored(self, transfer: Transfer) -> None:
        job = transfer.subject
        assert isinstance(job, Job)
        self._host.metrics.transfer(transfer, job.call, job.blocks)
        job.call.stores -= 1
        self._report(job, None)

    def _job_loaded(self, transfer: Transfer) -> None:
        job = transfer.subject
        assert isinstance(job, Job)
        self._host.metrics.transfer(transfer, job.call, job.blocks)
        self._host.metrics.late(transfer.finish_ps - transfer.start_ps)

        def done() -> None:
            job.call.status = Status.LOADED
            self._report(job, {job.call.id})

        self._host.notice(done)

    def _report(self, job: Job, received: set[str] | None) -> None:
        del self._jobs[job.number]
        worker = OffloadingWorkerMetadata(completed_jobs={job.number: 1})
        output = KVConnectorOutput(finished_recving=received, kv_connector_worker_meta=worker)
        self._engine.vllm._update_from_kv_xfer_finished(output)

    # -- loads ------------------------------------------------------------------------------------------------

    def find(self, call: Call, gpu_hit: int) -> int | None:
        """Blocks after a GPU hit that can be loaded; None: ask again later."""
        size = self._host.config.engine.block_size
        request = self._engine.scheduler.requests[call.id]
        tokens, _ = self._connector.get_num_new_matched_tokens(request, gpu_hit * size)
        return None if tokens is None else tokens // size
