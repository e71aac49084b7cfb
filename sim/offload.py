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

from mypy_extensions import mypyc_attr

from tokencake.policies.api import overrides
from tokencake.sim.calls import Call, Status
from tokencake.sim.loads import Loads
from tokencake.sim.parts import count_blocks, count_runs
from tokencake.sim.store_job import StoreJob
from tokencake.sim.transfer import Transfer

if TYPE_CHECKING:
    from tokencake.sim.extents import Match
    from tokencake.sim.host import Host
    from tokencake.sim.step import Step


@mypyc_attr(allow_interpreted_subclasses=True)
class Offloading:
    """Stores on compute and loads on hit.

    Attributes:
        store_ended: A store has ended since the last plan, so that a call which it kept out may start.
    """

    def __init__(self, host: Host):
        self._host = host
        self._cpu = host.cpu
        self._block_bytes = host.config.block_bytes
        stores = host.policy.store_when if overrides(host.policy, "store") else ()
        self._stores_finished = "finished" in stores
        self._computed: list[tuple[Call, str]] = []
        self._refused: dict[Call, str] = {}
        self._skipped: dict[Call, int] = {}
        self._ended: list[tuple[Call, StoreJob | None]] = []
        self._loads = Loads(host)
        self._under_way: dict[StoreJob, None] = {}
        self._left: dict[StoreJob, None] = {}
        self._flush: list[StoreJob] = []
        self._fences: dict[StoreJob, None] = {}
        self.store_ended = False

    # -- what happens while a step is planned -------------------------------------------------------

    def computed(self, call: Call, cause: str) -> None:
        """A call gets more full blocks in the step that is being planned."""
        self._computed.append((call, cause))

    def finished(self, call: Call) -> None:
        """A call ended and still holds its blocks; the rest happens when the next step is planned.

        As long as a call runs, nobody else is given the blocks that its stores read.
        """
        pool = self._host.pool
        if call.stores:
            for left in self._leave(call):
                for _, lo, hi in left.parts:
                    pool.watch(call.holding, lo, hi, left)
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
        self._flush.extend(self._leave(call))

    def _leave(self, call: Call) -> list[StoreJob]:
        """A call runs no longer; returns its stores that are under way."""
        jobs = [job for job in self._under_way if job.call is call]
        self._left.update(dict.fromkeys(jobs))
        return jobs

    def started(self, call: Call) -> None:
        """A call starts or begins to load: what it hit counts as allocated, so stores of calls that ended go first.

        ``_update_req_states`` and ``update_state_after_alloc`` note all blocks of such a request.
        """
        if self._left or self._ended:
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
        self.store_ended = False
        if self._flush:
            start_ps = self._flushed(start_ps)
        if self._computed or self._refused:
            due, self._computed = self._computed, []
            for call, cause in self._and_again(due, step) if self._refused else due:
                if call.status is Status.RUNNING:
                    self._store(step, call, cause)
        if self._ended:
            self._settle_ended(step)
            if self._flush:
                start_ps = self._flushed(start_ps)
        self._loads.start(start_ps)
        return start_ps

    def _and_again(self, due: list[tuple[Call, str]], step: Step | None) -> list[tuple[Call, str]]:
        """Calls with blocks to store, in scheduled order; a refused store is tried again when its call is scheduled."""
        again = {call: cause for call, cause in self._refused.items() if self._is_in(step, call)}
        return sorted((again | dict(due)).items(), key=lambda item: item[0].run_order)

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
        if limit > call.stored:
            job = StoreJob(call, call.stored, limit)
            if not self._begin(job):
                self._refused[call] = cause
                return
            call.stored = limit
            self._queue(step, job)
        if self._refused:
            self._refused.pop(call, None)

    def _begin(self, job: StoreJob) -> bool:
        """Take room in the CPU tier for what it lacks of a job's blocks; False if there is none."""
        call, lo, hi = job.call, job.lo, job.hi
        chain = call.holding.chain
        parts = self._cpu.begin_store(chain, lo, hi, call)
        if parts is not None:
            job.parts, job.blocks = parts, count_blocks(parts)
        elif self._skipped.get(call) != lo:
            self._skipped[call] = lo
            self._host.metrics.count("stores_skipped")
        if job.blocks == hi - lo:
            call.access(lo, hi)
        else:
            for ready in self._cpu.ready(chain, lo, hi, begun=job.parts):
                call.access(*ready)
        return parts is not None

    def _queue(self, step: Step | None, job: StoreJob) -> None:
        """Copy what a job has to copy, once the step that computes it has ended."""
        if not job.blocks:
            return
        call, parts = job.call, job.parts
        runs = 1 if len(parts) == 1 else count_runs(parts)
        job.transfer = Transfer("d2h", job.blocks * self._block_bytes, runs, "store", job, self._stored, urgent=False)
        call.stores += 1
        self._under_way[job] = None
        if call.status is not Status.RUNNING:
            self._left[job] = None
        if step is None:
            self._host.link.start(job.transfer)
        else:
            job.step = step
            step.stores = [*step.stores, job]

    def _settle_ended(self, step: Step | None) -> None:
        """Last stores of ended calls; after all of them, what the calls accessed becomes the most recently used.

        ``OffloadingConnectorScheduler.build_connector_meta`` builds the store jobs first.
        """
        host = self._host
        for _, job in self._ended:
            if job is not None:
                if self._begin(job):
                    self._queue(step, job)
                if not job.blocks:
                    host.pool.unwatch(job)
                elif any(job.reads(lo, hi) for lo, hi in job.reused):
                    self._flush.append(job)
        for call, _ in self._ended:
            chain = call.holding.chain
            if len(call.accessed) > 1:
                call.accessed.sort(reverse=True)
            for lo, hi in call.accessed:
                self._cpu.touch(chain, lo, hi)
            self._skipped.pop(call, None)
            host.tree.release(chain)
        self._ended.clear()

    def _flushed(self, start_ps: int) -> int:
        """When a step can start that overwrites blocks of the stores in ``_flush``.

        Those that have not started do so now, in the order in which they were decided.
        """
        flush, self._flush = dict.fromkeys(self._flush), []
        for job in [job for job in self._under_way if job in flush]:
            if job.step is not None and job.transfer is not None and job.transfer.state == "waiting":
                job.step.stores = [other for other in job.step.stores if other is not job]
                self._host.link.start(job.transfer)
        for job in flush:
            if job.transfer is not None and job.transfer.state in ("moving", "queued"):
                start_ps = max(start_ps, self._host.link.promise_ps(job.transfer))
        return start_ps

    # -- copies to the CPU -------------------------------------------------------------------------------

    def step_ended(self, step: Step) -> None:
        """The blocks of ``step`` are computed: their copies start."""
        for job in step.stores:
            assert job.transfer is not None
            self._host.link.start(job.transfer)
        step.stores = ()  # they know their step

    @property
    def idle(self) -> bool:
        """Whether steps of decodes can neither start a copy nor have to wait for one.

        They could if a store must be tried in every step, if one reads blocks that no call holds any longer,
        or if blocks become free when a step ends. (Steps in flight, whose end starts copies, are the caller's.)
        """
        if self._left or self._refused or self._fences or self._host.scheduler.deferred:
            return False
        return not any(job for _, job in self._ended)

    def jumped(self) -> None:
        """Steps of decodes have been planned while :attr:`idle`."""
        if self._ended:
            self._settle_ended(None)

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

    def _stored(self, transfer: Transfer) -> None:
        job = transfer.subject
        assert isinstance(job, StoreJob)
        self._host.metrics.transfer(transfer, job.call, job.blocks)
        self._cpu.end_store(job.parts)
        job.call.stores -= 1
        self.store_ended = True
        transfer.subject = None  # it is known to its job
        del self._under_way[job]
        if job in self._left:
            del self._left[job]
            self._host.pool.unwatch(job)

    # -- loads ------------------------------------------------------------------------------------

    def find(self, call: Call, gpu_hit: int) -> int | None:
        """See :meth:`tokencake.sim.loads.Loads.find`."""
        return self._loads.find(call, gpu_hit)

    def load(self, call: Call, gpu_hit: int, blocks: int) -> None:
        """See :meth:`tokencake.sim.loads.Loads.begin`."""
        self._loads.begin(call, gpu_hit, blocks)
