"""KV between GPU and CPU the way vLLM's own offloading connector moves it.

``vllm/distributed/kv_transfer/kv_connector/v1/offloading/scheduler.py`` (0.32): blocks are copied
to the CPU as they are computed, without being held; a waiting call whose next blocks are in the CPU
tier gets GPU blocks at once and waits for the copy; a call whose blocks are being written, or are
being read by another call, is asked again later. A GPU block that is reused while a store still
reads it makes the coming step wait for that store (``jobs_to_flush``).

Stores are decided when a whole step is planned (``build_connector_meta``): after all lookups of the
step, for its calls in scheduled order, then for the calls that ended before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokencake.policies.api import overrides
from tokencake.sim.calls import Call, Status
from tokencake.sim.clock import Priority
from tokencake.sim.cpu import Parts
from tokencake.sim.transfer import Transfer

if TYPE_CHECKING:
    from tokencake.sim.extents import Match
    from tokencake.sim.host import Host
    from tokencake.sim.step import Step


class StoreJob:
    """Blocks ``[lo, hi)`` of one call's chain, of which ``parts`` go to the CPU, read in place.

    Attributes:
        reused: Blocks given to another call before the parts were known.
    """

    __slots__ = ("blocks", "call", "hi", "lo", "parts", "reused", "transfer")

    def __init__(self, call: Call, lo: int, hi: int, parts: Parts | None = None):
        self.call = call
        self.lo = lo
        self.hi = hi
        self.parts: Parts = parts or []
        self.blocks = count_blocks(self.parts)
        self.reused: list[tuple[int, int]] = []
        self.transfer: Transfer | None = None

    def reads(self, lo: int, hi: int) -> bool:
        """Whether one of the blocks ``[lo, hi)`` is copied."""
        return any(first < hi and last > lo for _, first, last in self.parts)


class Offloading:
    """Stores on compute and loads on hit.

    Attributes:
        stored: A store has ended since the last plan, so that a call which it kept out may start.
    """

    def __init__(self, host: Host):
        self._host = host
        stores = host.policy.store_when if overrides(host.policy, "store") else ()
        self._stores_finished = "finished" in stores
        self._computed: list[tuple[Call, str]] = []
        self._refused: dict[Call, str] = {}
        self._skipped: dict[Call, int] = {}
        self._ended: list[tuple[Call, StoreJob | None]] = []
        self._loads: list[Transfer] = []
        self._waiting: dict[int, list[StoreJob]] = {}
        self._moving: dict[Call, list[StoreJob]] = {}
        self._flush: list[StoreJob] = []
        self._fences: dict[StoreJob, None] = {}
        self.stored = False

    # -- what happens while a step is planned -------------------------------------------------------

    def computed(self, call: Call, cause: str) -> None:
        """A call gets more full blocks in the step that is being planned."""
        self._computed.append((call, cause))

    def finished(self, call: Call) -> None:
        """A call ended and still holds its blocks; the rest happens when the next step is planned.

        As long as a call runs, nobody else is given the blocks that its stores read.
        """
        pool = self._host.pool
        for moving in self._moving.get(call, ()):
            for _, lo, hi in moving.parts:
                pool.watch(call.holding, lo, hi, moving)
        cause = self._refused.pop(call, "finished" if self._stores_finished else "")
        limit = self._wanted(call, cause) if cause else 0
        job = None
        if limit > call.stored:
            job = StoreJob(call, call.stored, limit)
            pool.watch(call.holding, job.lo, job.hi, job)
        self._host.tree.retain(call.holding.chain)
        self._ended.append((call, job))

    def preempted(self, call: Call) -> None:
        """A preempted call's stores are waited for before its blocks are written again."""
        self._refused.pop(call, None)
        self._flush.extend(self._moving.get(call, ()))

    def started(self, call: Call) -> None:
        """A call starts or begins to load: what it hit counts as allocated, so stores of calls that ended go first.

        ``_update_req_states`` and ``update_state_after_alloc`` note all blocks of such a request.
        """
        if self._moving or self._ended:
            for job, lo, hi in self._host.pool.watchers(call.holding):
                assert isinstance(job, StoreJob)
                if job.call.status is Status.FINISHED and job not in self._fences:
                    self.reused(job, lo, hi)

    def reused(self, job: object, lo: int, hi: int) -> None:
        """Blocks ``[lo, hi)``, which ``job`` may still read, have been given to another call."""
        assert isinstance(job, StoreJob)
        if not job.parts:
            job.reused.append((lo, hi))
        elif job.reads(lo, hi):
            self._flush.append(job)

    # -- when it is planned ----------------------------------------------------------------------------

    def planned(self, step: Step | None, start_ps: int) -> int:
        """Decide on stores and start loads, now that the plan is complete.

        Args:
            step: The step; None if nothing is computed.
            start_ps: When it could start.

        Returns:
            When it can start: after the stores whose blocks it overwrites.
        """
        self.stored = False
        start_ps = self._flushed(start_ps)
        for call, cause in self._due(step):
            self._store(step, call, cause)
        if self._ended:
            self._settle_ended(step)
            start_ps = self._flushed(start_ps)
        if self._loads:
            host = self._host
            for transfer in self._loads:
                host.clock.at(start_ps, Priority.TRANSFER, host.link.start, transfer)
            self._loads.clear()
        return start_ps

    def _due(self, step: Step | None) -> list[tuple[Call, str]]:
        """Calls with blocks to store, in scheduled order; a refused store is tried again when its call is scheduled."""
        due = self._computed
        self._computed = []
        if self._refused:
            again = {call: cause for call, cause in self._refused.items() if self._is_in(step, call)}
            due = sorted((again | dict(due)).items(), key=lambda item: item[0].run_order)
        return [(call, cause) for call, cause in due if call.status is Status.RUNNING]

    def _is_in(self, step: Step | None, call: Call) -> bool:
        if step is None or call.status is not Status.RUNNING:
            return False
        if call.decoding:
            self._host.scheduler.decodes.sync(call)
        return call.last_step == step.number

    def _wanted(self, call: Call, cause: str) -> int:
        host = self._host
        wanted = host.policy.store(host.view, host.placement.chain_view(call), cause)
        return min(wanted, call.holding.hashed)

    def _store(self, step: Step | None, call: Call, cause: str) -> None:
        limit = self._wanted(call, cause)
        if limit <= call.stored:
            self._refused.pop(call, None)
            return
        job = StoreJob(call, call.stored, limit)
        if not self._begin(job):
            self._refused[call] = cause
            return
        if self._refused:
            self._refused.pop(call, None)
        call.stored = limit
        self._queue(step, job)

    def _begin(self, job: StoreJob) -> bool:
        """Take room in the CPU tier for what it lacks of a job's blocks; False if there is none."""
        cpu = self._host.cpu
        chain = job.call.holding.chain
        for lo, hi in cpu.ready(chain, job.lo, job.hi):
            _access(job.call, lo, hi)
        parts = cpu.begin_store(chain, job.lo, job.hi, job.call)
        if parts is None:
            if self._skipped.get(job.call) != job.lo:
                self._skipped[job.call] = job.lo
                self._host.metrics.count("stores_skipped")
            return False
        job.parts, job.blocks = parts, count_blocks(parts)
        return True

    def _queue(self, step: Step | None, job: StoreJob) -> None:
        if not job.parts:
            return
        job.call.stores += 1
        self._moving.setdefault(job.call, []).append(job)
        if step is None:
            self._submit(job)
        else:
            self._waiting.setdefault(step.number, []).append(job)

    def _settle_ended(self, step: Step | None) -> None:
        """Last stores of ended calls; what they accessed becomes the most recently used."""
        host = self._host
        for call, job in self._ended:
            chain = call.holding.chain
            if job is not None:
                if self._begin(job):
                    self._queue(step, job)
                if not job.parts:
                    host.pool.unwatch(job)
                elif any(job.reads(lo, hi) for lo, hi in job.reused):
                    self._flush.append(job)
            if len(call.accessed) > 1:
                call.accessed.sort(reverse=True)
            for lo, hi in call.accessed:
                host.cpu.touch(chain, lo, hi)
            self._skipped.pop(call, None)
            host.tree.release(chain)
        self._ended.clear()

    def _flushed(self, start_ps: int) -> int:
        """When a step can start that overwrites blocks of the stores in ``_flush``."""
        if not self._flush:
            return start_ps
        flush, self._flush = self._flush, []
        for job in flush:
            if job.transfer is None:
                for jobs in self._waiting.values():
                    if job in jobs:
                        jobs.remove(job)
                self._submit(job)
        for job in flush:
            if job.transfer is not None and job.transfer.state in ("moving", "queued"):
                start_ps = max(start_ps, self._host.link.promise_ps(job.transfer))
        return start_ps

    # -- copies to the CPU -------------------------------------------------------------------------------

    def step_ended(self, step: Step) -> None:
        """The blocks of ``step`` are computed: their copies start."""
        if self._waiting:
            for job in self._waiting.pop(step.number, ()):
                self._submit(job)

    @property
    def idle(self) -> bool:
        """Whether steps of decodes can neither start a copy nor have to wait for one.

        They could if a copy waits for the end of a step, if a store must be tried in every step, if one
        reads blocks that no call holds any longer, or if blocks become free when a step ends.
        """
        if self._waiting or self._ended or self._refused or self._fences or self._host.scheduler.deferred:
            return False
        return all(call.status is Status.RUNNING for call in self._moving)

    def fence(self, job: StoreJob, found: Match, transfer: Transfer) -> None:
        """Blocks that nobody holds are read by a transfer; a step that overwrites one waits for it."""
        job.transfer = transfer
        self._fences[job] = None
        for _, lo, hi in job.parts:
            self._host.pool.watch_found(found, lo, hi, job)

    def lift(self, job: StoreJob) -> None:
        """The transfer of a fence is over."""
        self._host.pool.unwatch(job)
        del self._fences[job]

    def _submit(self, job: StoreJob) -> None:
        host = self._host
        size = job.blocks * host.config.block_bytes
        job.transfer = Transfer("d2h", size, count_runs(job.parts), "store", job, self._stored, urgent=False)
        host.link.start(job.transfer)

    def _stored(self, transfer: Transfer) -> None:
        job = transfer.subject
        assert isinstance(job, StoreJob)
        host = self._host
        host.metrics.transfer(transfer, job.call, job.blocks)
        host.cpu.end_store(job.parts)
        host.pool.unwatch(job)
        job.call.stores -= 1
        self.stored = True
        transfer.subject = None  # it is known to its job
        jobs = self._moving[job.call]
        jobs.remove(job)
        if not jobs:
            del self._moving[job.call]

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
        """Give a waiting call the GPU blocks for its CPU hit; the step being planned starts to fill them."""
        host = self._host
        host.pool.take(call.holding, blocks)
        size = host.config.engine.block_size
        end = gpu_hit + blocks
        call.computed = min(end * size, call.tokens)
        call.status = Status.LOADING
        call.stored = end
        _access(call, gpu_hit, end)
        host.scheduler.loading.append(call)
        parts = host.cpu.begin_load(call.holding.chain, gpu_hit, end)
        call.load = parts
        size_bytes = blocks * host.config.block_bytes
        self._loads.append(Transfer("h2d", size_bytes, count_runs(parts), "load", call, self._loaded))

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


def _access(call: Call, lo: int, hi: int) -> None:
    """Note that a call offered or loaded blocks ``[lo, hi)``; they are ranked again when it ends."""
    ranges = call.accessed
    if ranges and ranges[-1][1] == lo:
        lo = ranges.pop()[0]
    ranges.append((lo, hi))


def count_blocks(parts: Parts) -> int:
    """Blocks in a list of parts."""
    return sum(hi - lo for _, lo, hi in parts)


def count_runs(parts: Parts) -> int:
    """Stretches of consecutive blocks of a chain in a list of parts."""
    return sum(i == 0 or part[1] != parts[i - 1][2] for i, part in enumerate(parts))
