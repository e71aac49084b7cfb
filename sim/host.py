"""The simulated engine: vLLM's step loop on SimPy's clock, around one policy.

One loop serves synchronous and asynchronous scheduling: steps are planned until the pipeline is
full (one step, or two), then the oldest one ends, its outputs are processed, what happened in the
meantime is delivered, and the next step is planned (``EngineCore.step`` and
``step_with_batch_queue``). Whatever arrives while a step runs is noticed when it ends.

What nothing can disturb is taken without an event for each step (:mod:`tokencake.sim.ahead`); a run
without that gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from mypy_extensions import mypyc_attr

from tokencake.policies.api import CallView, EventKind, Policy, Trigger, overrides
from tokencake.policies.guard import guard
from tokencake.sim.ahead import Ahead
from tokencake.sim.blocks import BlockPool
from tokencake.sim.calls import Call, ProgramRun, Status
from tokencake.sim.chains import Chain, ContentTree
from tokencake.sim.clock import Clock
from tokencake.sim.config import NEVER, SimConfig
from tokencake.sim.cpu import CpuTier
from tokencake.sim.cpu_blocks import BlockCpuTier
from tokencake.sim.decisions import DecisionLog
from tokencake.sim.extents import Holding
from tokencake.sim.kv import RunPool
from tokencake.sim.link import Link
from tokencake.sim.metrics import Metrics
from tokencake.sim.offload import Offloading
from tokencake.sim.placement import Placement
from tokencake.sim.recorded_link import RecordedLink
from tokencake.sim.reporter import Reporter
from tokencake.sim.scheduler import Scheduler, in_order
from tokencake.sim.tools import Driver
from tokencake.sim.view import HostView

if TYPE_CHECKING:
    from tokencake.sim.knowledge import Knowledge
    from tokencake.sim.step import Step
    from tokencake.traces.schema import Program, ToolNode


@mypyc_attr(allow_interpreted_subclasses=True)
class Host:
    """One engine, its memory, link and policy, driven by one trace.

    Args:
        config: Engine, hardware and replay.
        policy: Decides; see :mod:`tokencake.policies.api`.
        programs: Programs in order of arrival; read lazily.
        knowledge: What the policy may know beyond declarations.

    Attributes:
        latency: Time of a step; this run's own, so that nothing of it is left in the configuration.
        noticed: Happenings so far.
        after_plan: Called whenever steps have been planned, if set; for those who check a run.
    """

    def __init__(self, config: SimConfig, policy: Policy, programs: Iterator[Program], knowledge: Knowledge):
        engine = config.engine
        self.config = config
        self.latency = config.latency.fresh()
        self.policy = policy
        guard(policy)
        self.knowledge = knowledge
        self.clock = self._make_clock()
        self.link = self._make_link()
        self.live: dict[str, Call] = {}
        self._make_engine()
        self.view = HostView(self, policy.info)
        self.scheduler.view = self.view
        self.reporter = Reporter(self, policy)
        self.decisions = DecisionLog(self)
        self.placement = Placement(self)
        self.metrics = Metrics(self)
        self.driver = Driver(self.clock, programs, config.workload, self)
        self._depth = engine.pipeline
        self._ahead = None if self.scheduler.explicit else Ahead(self)
        self._inbox: list[Callable[[], None]] = []
        self.noticed = 0
        self._wake_ps = NEVER
        self.after_plan: Callable[[], None] | None = None
        self.last_end_ps = 0
        self.step_number = 0
        self.copies = engine.cpu_blocks > 0
        self._observes = self.reporter.heard
        self._places = overrides(policy, "place")
        self.eventful = False
        self.steady = not self._places and not self.copies
        if overrides(policy, "evict_order"):
            self.pool.evict_key = self._rank(policy.evict_order(self.view, "gpu"))
            self.cpu.evict_key = self._rank(policy.evict_order(self.view, "cpu"))
        self.pool.on_reuse = self.offloading.reused

    def _make_clock(self) -> Clock:
        """Time; a host that keeps real time makes its own."""
        return Clock()

    def _make_link(self) -> Link:
        """What moves KV; a host that has KV makes its own."""
        copies = self.config.copies
        if copies is None:
            return Link(self.clock, self.config.link)
        return RecordedLink(self.clock, self.config.link, copies)

    def _make_engine(self) -> None:
        """Make what decides and remembers like vLLM; a host that has vLLM itself makes that."""
        config = self.config
        engine = config.engine
        self.tree = ContentTree(engine.block_size, keep=config.free_recompute)
        blocks = 1 << 40 if config.infinite_kv else engine.gpu_blocks
        kind: type[RunPool | BlockPool] = RunPool if engine.runs or config.infinite_kv else BlockPool
        self.pool: RunPool | BlockPool = kind(
            blocks,
            self.tree,
            caching=engine.prefix_caching,
            unhashed_first=engine.version != "0.22",
        )
        tier: type[CpuTier | BlockCpuTier] = CpuTier if engine.runs else BlockCpuTier
        self.cpu: CpuTier | BlockCpuTier = tier(engine.cpu_blocks, self.tree)
        self.scheduler = Scheduler(config, self.policy, self.pool, self)
        self.offloading = Offloading(self)

    @property
    def now_ps(self) -> int:
        """Current time in picoseconds; while steps are taken ahead, the time of the one planned."""
        return self.clock.now_ps

    def run(self, progress: Callable[[int], None] | None = None) -> None:
        """Play the whole trace.

        Args:
            progress: Called with the number of programs done, at every program's end.

        Raises:
            StuckError: The policy lets calls wait for ever, or nothing happen but its own wake-ups.
        """
        self.metrics.progress = progress
        self.driver.start()
        self._play()
        while self.link.next_ps() < NEVER:  # stores that nobody waited for
            self.clock.now_ps = self.link.next_ps()
            self.link.collect()
        self.placement.close()
        if self.driver.programs:
            raise self.placement.liveness.stuck()

    # -- what the applications do (Engine protocol of the driver) -----------------------------------

    def program_started(self, run: ProgramRun) -> None:
        if self._observes:
            at = self.now_ps
            self.notice(lambda: self.reporter.program(EventKind.PROGRAM_STARTED, at, run))

    def program_finished(self, run: ProgramRun) -> None:
        self.metrics.program(run)
        if self.placement.stalls:
            self.placement.program_ended(run)
        for call in run.calls.values():
            self.live.pop(call.id, None)
        if self._observes:
            at = self.now_ps
            self.notice(lambda: self.reporter.program(EventKind.PROGRAM_FINISHED, at, run))
        run.let_go()

    def call_arrived(self, call: Call) -> None:
        engine = self.config.engine
        tokens = call.prompt + call.output
        if tokens > engine.max_model_len or -(-(tokens - 1) // engine.block_size) > self.pool.capacity:
            call.status = Status.REFUSED
            self.metrics.refused(call, tokens > engine.max_model_len)
            self.driver.refuse(call.program)
            return
        self.notice(lambda: self._queue(call))

    def tool_started(self, run: ProgramRun, node: ToolNode) -> None:
        if self._observes:
            at = self.now_ps
            self.notice(lambda: self.reporter.tool(EventKind.TOOL_STARTED, at, run, node))

    def tool_finished(self, run: ProgramRun, node: ToolNode) -> None:
        at = self.now_ps
        self.knowledge.learn(f"tool:{node.tool}", node.duration_s)
        if self._observes or self._places:
            self.notice(lambda: self._returned(at, run, node))

    # -- the loop ------------------------------------------------------------------------------------

    def notice(self, happening: Callable[[], None]) -> None:
        """Deliver a happening when the engine next plans a step: now if it is idle."""
        self.noticed += 1
        self._inbox.append(happening)

    def plan_at(self, at_ps: int) -> None:
        """Plan a step at this time or at a coming one, should the engine be idle until then."""
        self._wake_ps = at_ps

    def _play(self) -> None:
        """Let events happen and steps run, until nothing is left to happen.

        Of what happens at one time a step's end comes first, then events, then the planning of a step.
        """
        clock, scheduler, ahead, copies = self.clock, self.scheduler, self._ahead, self.copies
        inflight, prefilling = scheduler.inflight, scheduler.prefilling
        happen = clock.step
        while True:
            ended: Step | None = None
            if inflight:
                now = inflight[0].end_ps
                while clock.coming_ps < now:
                    happen()
                clock.now_ps = now
                ended = inflight.popleft()
                if copies:
                    scheduler.ended(ended)
                for call in ended.firsts:
                    call.first_token_ps = now
                for call, yields in ended.stale:
                    call.known += yields
                    call.produced = call.known
                self._conclude(ended)
                if copies:
                    self.offloading.step_ended(ended)
            elif not self._inbox and not self._next_event() and not self.placement.liveness.unpark():
                return
            now = clock.now_ps
            while clock.coming_ps <= now:
                happen()
            self._wake_ps = NEVER
            if copies:
                self.link.collect()
            if self._inbox:
                self._deliver()
            if prefilling or ahead is None or not ahead.jump(ended):
                self._plan(now)
                if not inflight and not self._inbox and (scheduler.waiting or scheduler.loading):
                    self.placement.liveness.wait()
            if self.after_plan is not None:
                self.after_plan()

    def _next_event(self) -> bool:
        """The engine is idle: go on to what happens next; False if that is nothing, or nobody waits for it."""
        clock = self.clock
        while True:
            if self.driver.over and self.link.idle:
                return False
            if self._wake_ps < clock.coming_ps:
                clock.now_ps = self._wake_ps
                return True
            if clock.coming_ps == NEVER:
                return False
            clock.step()
            if self._inbox or self._wake_ps <= clock.now_ps:
                return True

    def _conclude(self, step: Step) -> None:
        """Outputs return one by one, in the order in which calls were scheduled; who got the last one ends."""
        ended, scheduler = step.finishers, self.scheduler
        if step.stale:
            ended = in_order([*ended, *(call for call, _ in step.stale)])
        for call in ended:
            if scheduler.skipped:
                scheduler.returned(before=call.run_order)
            done = call.status is Status.PREEMPTED and call.known == call.output
            if done or call.status is Status.RUNNING:
                self.finish(call, step.end_ps)
        if scheduler.skipped:
            scheduler.returned()

    def _deliver(self) -> None:
        """Let it be known what happened since the last step was planned."""
        self.step_number = self.scheduler.decodes.tick
        self.eventful = True
        self.scheduler.happened()
        inbox, self._inbox = self._inbox, []
        for happening in inbox:
            happening()

    def _plan(self, now: int) -> None:
        """Plan steps until the pipeline is full."""
        scheduler = self.scheduler
        inflight = scheduler.inflight
        eventful = not self.steady
        while len(inflight) < self._depth:
            self.step_number = scheduler.decodes.tick
            if self._places:
                self.placement.begin_step(self.eventful)
            eventful = eventful or self.eventful  # before this plan, or in one that only preempted
            self.eventful = False
            step = scheduler.schedule()
            start = now if self.last_end_ps < now else self.last_end_ps
            if self.copies:
                start = self.last_end_ps = self.offloading.planned(step, start)
            if step is None:
                if scheduler.just_preempted and not inflight:
                    continue  # vLLM schedules again at once
                break
            step.end_ps = self.last_end_ps = start + self._run_step(step)
            inflight.append(step)
            self.metrics.steps += 1
        if inflight or not self.driver.over:  # whatever timers still ring after the last program, its time is up
            self.metrics.sample(now, eventful=eventful or self.eventful)

    def _run_step(self, step: Step) -> int:
        """How long a planned step takes, in picoseconds; a host whose engine computes runs it to know."""
        return self.latency.step_ps(step.prefill, step.decodes, step.context)

    def _rank(self, key: Callable[[CallView], object] | None) -> Callable[[object], object] | None:
        """A policy's eviction order, for the calls that the pools know."""
        return None if key is None else lambda owner: key(self.view.call(owner))  # type: ignore[arg-type]

    # -- calls ------------------------------------------------------------------------------------------

    def _queue(self, call: Call) -> None:
        """A call enters the waiting queue (``add_request``)."""
        call.holding = Holding(self._chain(call), call)
        call.status = Status.WAITING
        self.live[call.id] = call
        self.scheduler.enqueue(call)
        self.metrics.waits(call)
        if self._observes:
            self.reporter.call(EventKind.CALL_QUEUED, call.arrival_ps, call)
        if self._places:
            self.placement.ask(Trigger.QUEUED, call)

    def _chain(self, call: Call) -> Chain:
        """What names the content of a call's blocks."""
        if not self.config.engine.prefix_caching:
            return self.tree.nothing
        content = call.program.resolved[call.node.id]
        return self.tree.chain(content.prompt + content.output)

    def finish(self, call: Call, now: int) -> None:
        """A call has its last output and still holds its blocks."""
        run = call.program
        self.eventful = True
        self.scheduler.finish(call)
        call.status = Status.FINISHED
        run.attained_ps += now - call.admitted_ps
        self.knowledge.learn(f"output:{call.node.agent_type}", float(call.output))
        self.metrics.call(call, now)
        if self._observes:
            elapsed = now - call.arrival_ps
            self.reporter.call(EventKind.CALL_FINISHED, now, call, elapsed_ps=elapsed, output_tokens=call.output)
        self.placement.call_finished(call, now)
        self.driver.ended(run, call.node)

    def _returned(self, at: int, run: ProgramRun, node: ToolNode) -> None:
        self.reporter.tool(EventKind.TOOL_FINISHED, at, run, node)
        if self._places:
            self.placement.returned(run, node)

    # -- what the scheduler reports (Watcher protocol) ----------------------------------------------------

    def admitted(self, call: Call) -> None:
        call.admitted(self.clock.now_ps)
        self.eventful = True
        self.metrics.admitted(call)
        if self.placement.stalls:
            self.placement.admitted(call)
        if self._observes:
            self.reporter.call(EventKind.CALL_ADMITTED, self.now_ps, call)

    def started(self, call: Call) -> None:
        if self.copies:
            self.offloading.started(call)

    def preempted(self, call: Call) -> None:
        call.preempted_ps = self.clock.now_ps
        self.eventful = True
        self.placement.liveness.preempted(call)
        self.metrics.waits(call)
        if self.config.log_decisions:
            self.decisions.add("preempted", call.id, f"preemption {call.preemptions}", "done")
        if call.stores:
            self.offloading.preempted(call)
        if self._observes:
            self.reporter.call(EventKind.CALL_PREEMPTED, self.now_ps, call)

    def computed(self, call: Call, cause: str) -> None:
        self.offloading.computed(call, cause)

    def find_cpu(self, call: Call, gpu_hit: int) -> int | None:
        return self.offloading.find(call, gpu_hit)

    def load(self, call: Call, gpu_hit: int, blocks: int) -> None:
        self.offloading.load(call, gpu_hit, blocks)

    def refuse_admission(self, call: Call, reason: str) -> None:
        if self._observes:
            self.reporter.call(EventKind.ACTION_REFUSED, self.now_ps, call, reason=reason)

    def room(self, call: Call, blocks: int) -> bool:
        return not self.placement.reserved or self.placement.liveness.room(call, blocks)
