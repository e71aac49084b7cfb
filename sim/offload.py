"""KV between GPU and CPU the way vLLM's own offloading connector moves it.

``vllm/distributed/kv_transfer/kv_connector/v1/offloading/scheduler.py`` (0.32): blocks are copied
to the CPU as they are computed, without being held; a waiting call whose next blocks are in the CPU
tier gets GPU blocks at once and waits for the copy; a call whose blocks are being written, or are
being read by another call, is asked again later. A GPU block that is reused while a store still
reads it makes the coming step wait for that store (``jobs_to_flush``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokencake.sim.calls import Call, Status
from tokencake.sim.clock import Alarm, Priority
from tokencake.sim.cpu import Parts
from tokencake.sim.link import Transfer

if TYPE_CHECKING:
    from tokencake.sim.host import Host
    from tokencake.sim.step import Step


class StoreJob:
    """Blocks of one call on their way to the CPU, read in place."""

    __slots__ = ("blocks", "call", "parts", "transfer")

    def __init__(self, call: Call, parts: Parts):
        self.call = call
        self.blocks = count_blocks(parts)
        self.parts = parts
        self.transfer: Transfer | None = None


class Offloading:
    """Stores on compute and loads on hit."""

    def __init__(self, host: Host):
        self._host = host
        self._waiting: dict[int, list[StoreJob]] = {}
        self._moving: dict[Call, list[StoreJob]] = {}
        self._flush: list[StoreJob] = []

    # -- stores -----------------------------------------------------------------------------------

    def computed(self, step: Step | None, call: Call, cause: str) -> None:
        """A call gets more full blocks in ``step``, or has them (None): copy what the policy wants."""
        host = self._host
        wanted = host.policy.store(host.view, host.placement.chain_view(call), cause)
        limit = min(wanted, call.holding.hashed)
        if limit <= call.stored:
            return
        chain = call.holding.chain
        parts = host.cpu.begin_store(chain, call.stored, limit, call)
        if parts is None:
            host.metrics.count("stores_skipped")
            return
        if parts:
            job = StoreJob(call, parts)
            call.stores += 1
            self._moving.setdefault(call, []).append(job)
            host.pool.watch(call.holding, call.stored, limit, job)
            if step is None:
                self._submit(job)
            else:
                self._waiting.setdefault(step.number, []).append(job)
        call.stored = limit

    def step_ended(self, step: Step) -> None:
        """The blocks of ``step`` are computed: their copies start."""
        if self._waiting:
            for job in self._waiting.pop(step.number, ()):
                self._submit(job)

    def awaits(self, step: Step) -> bool:
        """Whether the end of ``step`` starts a copy."""
        return step.number in self._waiting

    @property
    def exposed(self) -> bool:
        """Whether a store reads blocks of a call that no longer holds them."""
        return any(call.status is not Status.RUNNING for call in self._moving)

    def reused(self, job: object) -> None:
        """A block that ``job`` still reads has been given to another call."""
        assert isinstance(job, StoreJob)
        self._flush.append(job)

    def preempted(self, call: Call) -> None:
        """A preempted call's stores are waited for before its blocks are written again."""
        self._flush.extend(self._moving.get(call, ()))

    def step_starts(self, start_ps: int) -> int:
        """When a step can start that would overwrite blocks still being stored."""
        if not self._flush:
            return start_ps
        flush, self._flush = self._flush, []
        for job in flush:
            if job.transfer is None:
                for jobs in self._waiting.values():
                    if job in jobs:
                        jobs.remove(job)
                self._submit(job)
            assert job.transfer is not None
            if job.transfer.state == "moving":
                start_ps = max(start_ps, self._host.link.eta_ps(job.transfer))
        return start_ps

    def _submit(self, job: StoreJob) -> None:
        host = self._host
        size = job.blocks * host.config.block_bytes
        job.transfer = Transfer("d2h", size, len(job.parts), "store", job, self._stored, urgent=False)
        host.link.start(job.transfer)

    def _stored(self, transfer: Transfer) -> None:
        job = transfer.subject
        assert isinstance(job, StoreJob)
        host = self._host
        host.metrics.transfer(transfer, job.call, job.blocks)
        host.cpu.end_store(job.parts)
        host.pool.unwatch(job)
        job.call.stores -= 1
        jobs = self._moving[job.call]
        jobs.remove(job)
        if not jobs:
            del self._moving[job.call]

    def finished(self, call: Call) -> None:
        """A call ended: what it stored or loaded becomes the most recently used."""
        self._host.cpu.touch(call.holding.chain, 0, call.stored)

    # -- loads ------------------------------------------------------------------------------------

    def find(self, call: Call, gpu_hit: int) -> int | None:
        """Blocks after a GPU hit that can be loaded; None: ask again later."""
        if call.stores:
            return None
        chain = call.holding.chain
        limit = call.tokens // self._host.config.engine.block_size
        found, pending = self._host.cpu.match(chain, gpu_hit, limit)
        if pending:
            return None
        if found and self._host.cpu.being_read(chain, gpu_hit, gpu_hit + found):
            return None
        return found

    def load(self, call: Call, gpu_hit: int, blocks: int) -> None:
        """Give a waiting call the GPU blocks for its CPU hit, and start to fill them."""
        host = self._host
        host.pool.take(call.holding, blocks)
        size = host.config.engine.block_size
        call.computed = min((gpu_hit + blocks) * size, call.tokens)
        call.status = Status.LOADING
        call.stored = max(call.stored, gpu_hit + blocks)
        host.scheduler.loading.append(call)
        parts = host.cpu.begin_load(call.holding.chain, gpu_hit, gpu_hit + blocks)
        size_bytes = blocks * host.config.block_bytes
        transfer = Transfer("h2d", size_bytes, len(parts), "load", call, self._loaded)
        now = host.now_ps
        busy = host.scheduler.inflight[-1].end_ps if host.scheduler.inflight else now
        Alarm(host.env, max(0, busy - now), Priority.TRANSFER, host.link.start, transfer)
        call.load = parts

    def _loaded(self, transfer: Transfer) -> None:
        call = transfer.subject
        assert isinstance(call, Call)
        host = self._host
        parts: Parts = call.load  # type: ignore[assignment]
        host.metrics.transfer(transfer, call, count_blocks(parts))
        host.metrics.late(transfer.finish_ps - transfer.start_ps)

        def done() -> None:
            host.cpu.end_load(parts)
            call.load = None
            call.status = Status.LOADED

        host.notice(done)


def count_blocks(parts: Parts) -> int:
    """Blocks in a list of parts."""
    return sum(hi - lo for _, lo, hi in parts)
