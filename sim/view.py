"""What a policy sees of the simulator: read-only, computed when asked.

The classes here implement the protocols of :mod:`tokencake.policies.api` over the host's state.
Views of calls, programs and chains are made once and stay valid, so that a policy may use them as
keys; whatever they show is the state at the moment of the question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tokencake.policies.api import CallView as CallProtocol
from tokencake.policies.api import Info, InformationError, Need
from tokencake.policies.api import ProgramView as ProgramProtocol
from tokencake.sim.calls import Call, ProgramRun, Status
from tokencake.sim.config import PS
from tokencake.traces.schema import LLMNode, ToolNode

if TYPE_CHECKING:
    from tokencake.sim.blocks import BlockPool
    from tokencake.sim.cpu import CpuTier
    from tokencake.sim.cpu_blocks import BlockCpuTier
    from tokencake.sim.host import Host
    from tokencake.sim.kv import RunPool
    from tokencake.sim.stall import Stall


class ToolView:
    """Declared facts of a tool call."""

    __slots__ = ("_node", "_run")

    def __init__(self, run: ProgramRun, node_id: str):
        self._run = run
        self._node = run.nodes[node_id]

    @property
    def node(self) -> str:
        return self._node.id

    @property
    def tool(self) -> str:
        return self._node.tool  # type: ignore[union-attr]

    @property
    def estimate_s(self) -> float | None:
        return self._node.estimate_s  # type: ignore[union-attr]

    @property
    def started_s(self) -> float | None:
        started = self._run.tool_started_ps.get(self._node.id)
        return None if started is None else started / PS


class ProgramView:
    """A program and its declared graph."""

    __slots__ = ("_run",)

    def __init__(self, run: ProgramRun):
        self._run = run

    @property
    def id(self) -> str:
        return self._run.program.program

    @property
    def app(self) -> str:
        return self._run.program.app

    @property
    def arrival_s(self) -> float:
        return self._run.arrival_ps / PS

    @property
    def attained_s(self) -> float:
        return self._run.attained_ps / PS

    @property
    def nodes(self) -> Sequence[str]:
        return tuple(self._run.nodes)

    def successors(self, node: str) -> Sequence[str]:
        return tuple(n.id for n in self._run.followers.get(node, ()))

    def predecessors(self, node: str) -> Sequence[str]:
        return self._run.nodes[node].after

    def tool(self, node: str) -> ToolView | None:
        return ToolView(self._run, node) if isinstance(self._run.nodes[node], ToolNode) else None

    def agent_type(self, node: str) -> str:
        found = self._run.nodes[node]
        return found.agent_type if isinstance(found, LLMNode) else ""

    @property
    def finished(self) -> Sequence[str]:
        return tuple(self._run.finished)

    @property
    def labels(self) -> Mapping[str, object]:
        return self._run.program.labels


class CallView:
    """One LLM call."""

    __slots__ = ("_call", "_host")

    def __init__(self, host: Host, call: Call):
        self._host = host
        self._call = call

    def __repr__(self) -> str:
        return f"CallView({self._call.id})"

    @property
    def id(self) -> str:
        return self._call.id

    @property
    def program(self) -> ProgramProtocol:
        return self._host.view.program(self._call.program)

    @property
    def node(self) -> str:
        return self._call.node.id

    @property
    def agent(self) -> str:
        return self._call.node.agent

    @property
    def agent_type(self) -> str:
        return self._call.node.agent_type

    @property
    def arrival_s(self) -> float:
        return self._call.arrival_ps / PS

    @property
    def prompt_tokens(self) -> int:
        return self._call.prompt

    @property
    def output_tokens(self) -> int:
        self._sync()
        call = self._call
        if call.status is Status.FINISHED:
            return call.output
        return call.produced if call.status is Status.RUNNING else call.known

    @property
    def computed_tokens(self) -> int:
        self._sync()
        return self._call.computed

    @property
    def max_tokens(self) -> int | None:
        return self._call.node.max_tokens

    @property
    def gpu_blocks(self) -> int:
        self._sync()
        return self._call.holding.blocks

    @property
    def own_blocks(self) -> int:
        self._sync()
        return self._host.pool.own(self._call.holding)

    @property
    def preemptions(self) -> int:
        return self._call.preemptions

    @property
    def importance(self) -> float:
        return self._call.node.importance

    @property
    def critical(self) -> bool:
        return self._call.node.critical

    @property
    def labels(self) -> Mapping[str, object]:
        return self._call.node.labels

    def _sync(self) -> None:
        if self._call.decoding:
            self._host.scheduler.decodes.sync(self._call)


class ChainView:
    """The KV chain of a call that runs, waits or is stalled."""

    __slots__ = ("_call", "_host", "_stall")

    def __init__(self, host: Host, call: Call, stall: Stall | None = None):
        self._host = host
        self._call = call
        self._stall = stall

    @property
    def call(self) -> CallProtocol:
        return self._host.view.call(self._call)

    @property
    def blocks(self) -> int:
        call = self._call
        if call.decoding:
            self._host.scheduler.decodes.sync(call)
        size = self._host.config.engine.block_size
        if call.status is Status.FINISHED:
            return (call.prompt + call.output - 1) // size
        return call.computed // size

    @property
    def gpu_blocks(self) -> int:
        return self._host.placement.gpu_blocks(self._call)

    @property
    def cpu_blocks(self) -> int:
        return self._host.placement.cpu_blocks(self._call)

    @property
    def pinned_blocks(self) -> int:
        return 0 if self._stall is None else self._stall.pinned_blocks

    @property
    def own_blocks(self) -> int:
        stall = self._stall
        if stall is None:
            return 0
        own = self._host.pool.own
        return own(stall.pin) + own(stall.held) + own(stall.source)

    @property
    def next_calls(self) -> Sequence[str]:
        call = self._call
        return tuple(n.id for n in call.program.following_calls(call.node.id))

    @property
    def next_tools(self) -> Sequence[ToolView]:
        call = self._call
        run = call.program
        return tuple(ToolView(run, n.id) for n in run.following_tools(call.node.id))

    @property
    def stalled_s(self) -> float | None:
        return None if self._stall is None else self._stall.since_ps / PS


class TierView:
    """Blocks of one tier."""

    __slots__ = ("_host", "_tier")

    def __init__(self, host: Host, tier: str):
        self._host = host
        self._tier = tier

    @property
    def capacity(self) -> int:
        return self._pool.capacity

    @property
    def free(self) -> int:
        return self._pool.free

    @property
    def cached(self) -> int:
        return self._pool.cached

    @property
    def pinned(self) -> int:
        return self._host.placement.pinned_blocks if self._tier == "gpu" else self._host.cpu.pinned

    @property
    def _pool(self) -> RunPool | BlockPool | CpuTier | BlockCpuTier:
        return self._host.pool if self._tier == "gpu" else self._host.cpu


class LinkView:
    """Bandwidth and queues of the link."""

    __slots__ = ("_host",)

    def __init__(self, host: Host):
        self._host = host

    @property
    def d2h_bytes_per_s(self) -> float:
        return self._host.config.link.d2h_gb_s * 1e9

    @property
    def h2d_bytes_per_s(self) -> float:
        return self._host.config.link.h2d_gb_s * 1e9

    @property
    def d2h_queued_bytes(self) -> int:
        return self._host.link.queued_bytes("d2h")

    @property
    def h2d_queued_bytes(self) -> int:
        return self._host.link.queued_bytes("h2d")


class CostView:
    """Cost model of the hardware, in seconds."""

    __slots__ = ("_host",)

    def __init__(self, host: Host):
        self._host = host

    def prefill_time(self, new_tokens: int, context_tokens: int = 0) -> float:
        return self._host.config.latency.prefill_ps(new_tokens, context_tokens) / PS

    def step_time(self, batch: int, context_tokens: int) -> float:
        return self._host.config.latency.decode_ps(batch, context_tokens) / PS

    def transfer_time(self, blocks: int, direction: str) -> float:
        return self._host.link.alone_ps(direction, blocks * self._host.config.block_bytes, 1) / PS


class HostView:
    """The whole host, as a policy sees it."""

    def __init__(self, host: Host, info: Info):
        self._host = host
        self._info = info
        self.block_size = host.config.engine.block_size
        self.token_budget = host.config.engine.max_num_batched_tokens
        self.max_running = host.config.engine.max_num_seqs
        self.gpu = TierView(host, "gpu")
        self.cpu = TierView(host, "cpu")
        self.link = LinkView(host)
        self.cost = CostView(host)

    @property
    def now(self) -> float:
        return self._host.now_ps / PS

    @property
    def step(self) -> int:
        return self._host.step_number

    @property
    def waiting(self) -> Sequence[CallProtocol]:
        return tuple(self.call(c) for c in self._host.scheduler.waiting)

    @property
    def running(self) -> Sequence[CallProtocol]:
        return tuple(self.call(c) for c in self._host.scheduler.running)

    @property
    def loading(self) -> Sequence[CallProtocol]:
        return tuple(self.call(c) for c in self._host.scheduler.loading)

    @property
    def stalled(self) -> Sequence[ChainView]:
        return self._host.placement.views()

    @property
    def reserved(self) -> Mapping[str, int]:
        return dict(self._host.placement.reserved)

    def call(self, call: Call) -> CallProtocol:
        """The view of a call, always the same object."""
        if call.view is None:
            call.view = CallView(self._host, call)
            if call.program.program.program in self._host.driver.programs:
                self._host.live[call.id] = call
        return call.view  # type: ignore[return-value]

    def find(self, call_id: str) -> Call | None:
        """The call behind an id that a policy names."""
        return self._host.live.get(call_id)

    def program(self, run: ProgramRun) -> ProgramProtocol:
        """The view of a program, always the same object."""
        if run.view is None:
            run.view = ProgramView(run)
        return run.view  # type: ignore[return-value]

    def need(self, call: CallProtocol) -> Need | None:
        found = self.find(call.id)
        return None if found is None else self._host.scheduler.need(found)

    def foresee_output(self, call: CallProtocol) -> float | None:
        found = self.find(call.id)
        if found is None:
            return None
        truth = found.output
        return self._foresee(f"output:{found.node.agent_type}", found.id, float(truth))

    def foresee_call(self, program: ProgramProtocol, node: str) -> float | None:
        run = self._host.driver.programs.get(program.id)
        if run is None:
            return None
        call = run.nodes[node]
        return self._foresee(
            f"output:{call.agent_type}",  # type: ignore[union-attr]
            f"{program.id}/{node}",
            float(call.output_tokens),  # type: ignore[union-attr]
        )

    def foresee_tool(self, program: ProgramProtocol, node: str) -> float | None:
        run = self._host.driver.programs.get(program.id)
        if run is None:
            return None
        tool = run.nodes[node]
        return self._foresee(
            f"tool:{tool.tool}",  # type: ignore[union-attr]
            f"{program.id}/{node}",
            tool.duration_s,  # type: ignore[union-attr]
        )

    def _foresee(self, group: str, name: str, truth: float) -> float | None:
        if self._info is Info.ORACLE:
            return truth
        if self._info is Info.NOISY_ORACLE:
            return truth * self._host.noise(name)
        if self._info is Info.NONE:
            raise InformationError(
                f"the policy's information level is NONE, which hides {group.split(':')[0]} of {name}"
            )
        return self._host.knowledge.expect(group)
