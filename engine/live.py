"""The live engine: vLLM with a model, its steps and copies carried out and timed.

Everything but the execution of a step is the virtual engine's (:mod:`tokencake.engine.host`): the same
scheduler, the same policy, the same programs and tools. What differs is where time comes from. A step
takes what it is measured to take, from the beginning of vLLM's ``schedule`` to the last sampled token;
processing its outputs counts towards the step after it. In ``warp`` time idle stretches are skipped and
tools take no real time; in ``wall`` time the clock is the machine's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tokencake.engine.contents import Contents, HashedChain
from tokencake.engine.copies import KvCopies
from tokencake.engine.forced import OUTPUT
from tokencake.engine.host import EngineHost
from tokencake.engine.live_clock import PS_PER_NS, LiveClock, Meter, StoppedError, stopping
from tokencake.engine.live_link import LiveLink
from tokencake.engine.offloading import Job
from tokencake.engine.tier import EngineTier
from tokencake.engine.virtual import policy_scheduler
from tokencake.sim.config import PS
from tokencake.sim.knowledge import Knowledge
from tokencake.sim.latency.linear import features
from tokencake.sim.records import STEP_COLUMNS, Table
from tokencake.sim.stall import Stall

if TYPE_CHECKING:
    from tokencake.engine.adapter import EngineStep
    from tokencake.engine.config import LiveConfig
    from tokencake.engine.runtime import Runtime
    from tokencake.engine.scheduler import Asking
    from tokencake.policies.api import Policy
    from tokencake.sim.calls import Call
    from tokencake.sim.config import SimConfig
    from tokencake.sim.transfer import Transfer
    from tokencake.traces.schema import Program

Said = Mapping[str, Sequence[int]]


class LiveHost(EngineHost):
    """Executes steps with a model.

    Args:
        config: Engine, hardware and replay.
        policy: Decides.
        programs: Programs in order of arrival; read lazily.
        knowledge: What the policy may know beyond declarations.
        vllm: A fresh scheduler.
        runtime: The model; it has run nothing since it was last idle.
        live: Clock and copies.
        said: What the model itself says, by content id: it is on its own then, and the run fails where it says
            something else. By default it is made to say what the trace says.

    Attributes:
        clock: SimPy's clock.
        steps: Every step that computed something, as it was measured.
    """

    clock: LiveClock
    link: LiveLink

    def __init__(
        self,
        config: SimConfig,
        policy: Policy,
        programs: Iterator[Program],
        knowledge: Knowledge,
        vllm: Asking,
        runtime: Runtime,
        live: LiveConfig,
        *,
        said: Said | None = None,
    ):
        self._runtime = runtime
        self._said = said
        self._live = live
        self._meter = Meter()
        self._run_model = self._meter.timed(runtime.execute)
        self.steps = Table(STEP_COLUMNS)
        vllm.schedule = self._meter.timed(vllm.schedule)  # type: ignore[method-assign]
        vllm.update_from_output = self._meter.timed(vllm.update_from_output)
        super().__init__(config, policy, programs, knowledge, vllm)

    def _make_clock(self) -> LiveClock:
        return LiveClock(paced=self._live.clock == "wall")

    def _make_contents(self) -> Contents:
        return Contents(self.config.engine.block_size, self._runtime.model.shape.vocab, self._said)

    def _make_link(self) -> LiveLink:
        copies = KvCopies(self._runtime.kv_tensors)
        measured = self._live.copies == "measured"
        cpu_time = self._runtime.on_cpu and not self.clock.paced
        return LiveLink(self.clock, self.config.link, copies, self._where, measured=measured, cpu_time=cpu_time)

    def _where(self, transfer: Transfer) -> tuple[list[int], list[int]]:
        """Blocks of the engine, and buffers of the CPU tier, that a transfer is about."""
        subject = transfer.subject
        if isinstance(subject, Job):
            specs = (subject.order.src_spec, subject.order.dst_spec)
            blocks, slots = specs if transfer.direction == "d2h" else specs[::-1]
            return blocks.block_ids.tolist(), slots.block_ids.tolist()
        assert isinstance(subject, Stall)
        holding = subject.source if transfer.direction == "d2h" else subject.pin
        chain = subject.call.holding.chain
        numbers = [number for _, lo, hi in subject.parts for number in range(lo, hi)]
        held: Any = holding.spans or self.pool.match(chain, numbers[-1] + 1).parts
        assert isinstance(self.cpu, EngineTier)
        return [held[number] for number in numbers], self.cpu.slots(subject.parts)

    def _queue(self, call: Call) -> None:
        super()._queue(call)
        if self._said is None:
            self.scheduler.requests[call.id].sampling_params.extra_args = {OUTPUT: _output(call)}

    def finish(self, call: Call, now: int) -> None:
        """See :meth:`tokencake.sim.host.Host.finish`.

        VLLM reports the end of a call while it processes outputs, which counts as a step's time. What the
        host and the policy do then, copies included, does not.

        Raises:
            RuntimeError: The model said something that is not in the trace.
        """
        said = list(self.scheduler.requests[call.id].output_token_ids)
        if said != _output(call):
            at = next((i for i, (a, b) in enumerate(zip(said, _output(call), strict=False)) if a != b), len(said))
            raise RuntimeError(f"{call.id}: output token {at} of {call.output} is not the trace's")
        with self._meter.paused():
            super().finish(call, now)

    def execute(self, step: EngineStep) -> tuple[Any, int]:
        """See :meth:`EngineHost.execute`."""
        start = max(self.now_ps, self.last_end_ps)
        self.clock.wait(start)
        self.link.before_step()
        output = self._run_model(step.planned)
        if not step.tokens:
            return output, 0
        wall, cpu = self._meter.take_ns()
        if self.clock.paced:
            took = max(1, self.clock.wall_ps() - start)
        else:
            took = PS_PER_NS * (cpu if self._runtime.on_cpu else wall)
        shape = features(step.prefill, step.decodes, step.context)[1:]
        expected = self.latency.step_ps(step.prefill, step.decodes, step.context)
        self.steps.add(start / PS, took / PS, *shape, wall / 1e9, cpu / 1e9, expected / PS)
        return output, took

    def drain(self) -> None:
        """Let the model forget its calls, whatever became of them."""
        self.vllm.hooks = None  # the run is over: nobody is asked, and nothing is logged
        requests = list(self.vllm.requests)
        if requests:
            from vllm.v1.request import RequestStatus

            self.vllm.finish_requests(requests, RequestStatus.FINISHED_ABORTED)
        self._runtime.execute(self.vllm.schedule())


def _output(call: Call) -> list[int]:
    chain = call.holding.chain
    assert isinstance(chain, HashedChain)
    return chain.output


def live_host(
    config: SimConfig,
    policy: Policy,
    programs: Iterable[Program],
    runtime: Runtime,
    live: LiveConfig,
    *,
    said: Said | None = None,
) -> LiveHost:
    """Return a live engine that is ready to run; arguments as those of :class:`LiveHost`.

    Args:
        config: Engine, hardware and replay.
        policy: A fresh policy object.
        programs: Programs in order of arrival; re-iterable if the policy's level is ``CLASS_MEAN``.
        runtime: The model.
        live: Clock and copies.
        said: What the model itself says, if it is not made to say what the trace says.
    """
    knowledge = Knowledge.of(policy.info, programs)
    vllm = policy_scheduler(config, policy)
    return LiveHost(config, policy, iter(programs), knowledge, vllm, runtime, live, said=said)


def play(host: LiveHost, progress: Callable[[int], None] | None = None) -> bool:
    """Run a host, to its end or to the first SIGINT, and leave its model idle; whether it was left alone until its end.

    Raises:
        StuckError: The policy leaves calls waiting for ever.
    """
    with stopping(host.clock):
        host.clock.start()
        try:
            host.run(progress)
        except StoppedError:
            return False
        finally:
            host.drain()
    return not host.clock.stop.is_set()
