"""What a policy sees of a host: read-only, computed when asked.

The classes here, in :mod:`tokencake.sim.call_view` and :mod:`tokencake.sim.program_view` implement the
protocols of :mod:`tokencake.policies.api` over the host's state. Views of calls, programs and chains are
made once and stay valid, so that a policy may use them as keys; whatever they show is the state at the
moment of the question.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from tokencake.policies.api import CallView as CallProtocol
from tokencake.policies.api import Info, InformationError, Need
from tokencake.policies.api import ProgramView as ProgramProtocol
from tokencake.sim.call_view import CallView, ChainView
from tokencake.sim.calls import Call, ProgramRun
from tokencake.sim.config import PS
from tokencake.sim.program_view import ProgramView
from tokencake.sim.rng import lognormal
from tokencake.traces.schema import LLMNode, ToolNode

if TYPE_CHECKING:
    from tokencake.sim.blocks import BlockPool
    from tokencake.sim.cpu import CpuTier
    from tokencake.sim.cpu_blocks import BlockCpuTier
    from tokencake.sim.host import Host
    from tokencake.sim.kv import RunPool


_KINDS: Mapping[type, str] = {LLMNode: "an LLM call", ToolNode: "a tool call", type(None): "none of its nodes"}

_Node = TypeVar("_Node", LLMNode, ToolNode)


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
        return self._host.latency.prefill_ps(new_tokens, context_tokens) / PS

    def step_time(self, batch: int, context_tokens: int) -> float:
        return self._host.latency.decode_ps(batch, context_tokens) / PS

    def transfer_time(self, blocks: int, direction: str) -> float:
        return self._host.link.alone_ps(direction, blocks * self._host.config.block_bytes, 1) / PS


class HostView:
    """The whole host, as a policy sees it."""

    __slots__ = ("_cost", "_cpu", "_gpu", "_host", "_info", "_link")

    def __init__(self, host: Host, info: Info):
        self._host = host
        self._info = info
        self._gpu = TierView(host, "gpu")
        self._cpu = TierView(host, "cpu")
        self._link = LinkView(host)
        self._cost = CostView(host)

    @property
    def block_size(self) -> int:
        return self._host.config.engine.block_size

    @property
    def token_budget(self) -> int:
        return self._host.config.engine.max_num_batched_tokens

    @property
    def max_running(self) -> int:
        return self._host.config.engine.max_num_seqs

    @property
    def gpu(self) -> TierView:
        return self._gpu

    @property
    def cpu(self) -> TierView:
        return self._cpu

    @property
    def link(self) -> LinkView:
        return self._link

    @property
    def cost(self) -> CostView:
        return self._cost

    @property
    def now(self) -> float:
        return self._host.now_ps / PS

    @property
    def step(self) -> int:
        return self._host.step_number

    @property
    def waiting(self) -> Sequence[CallProtocol]:
        return self._calls(self._host.scheduler.waiting)

    @property
    def running(self) -> Sequence[CallProtocol]:
        return self._calls(self._host.scheduler.running)

    @property
    def loading(self) -> Sequence[CallProtocol]:
        return self._calls(self._host.scheduler.loading)

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
        return call.view  # type: ignore[return-value]

    def _calls(self, calls: Iterable[Call]) -> tuple[CallProtocol, ...]:
        """Views of calls, nearly all of which have been made before."""
        return tuple([call.view or self.call(call) for call in calls])  # type: ignore[misc]

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
        call = _node(run, node, LLMNode)
        return self._foresee(f"output:{call.agent_type}", f"{program.id}/{node}", float(call.output_tokens))

    def foresee_tool(self, program: ProgramProtocol, node: str) -> float | None:
        run = self._host.driver.programs.get(program.id)
        if run is None:
            return None
        tool = _node(run, node, ToolNode)
        return self._foresee(f"tool:{tool.tool}", f"{program.id}/{node}", tool.duration_s)

    def _foresee(self, group: str, name: str, truth: float) -> float | None:
        if self._info is Info.ORACLE:
            return truth
        if self._info is Info.NOISY_ORACLE:
            config = self._host.config
            return truth * lognormal(config.seed, f"noise/{name}", config.noise)  # always the same for a seed
        if self._info is Info.NONE:
            raise InformationError(
                f"the policy's information level is NONE, which hides {group.split(':')[0]} of {name}"
            )
        return self._host.knowledge.expect(group)


def _node(run: ProgramRun, node: str, kind: type[_Node]) -> _Node:
    """A node of a program, if it is of the kind that a policy asks about."""
    found = run.nodes.get(node)
    if not isinstance(found, kind):
        raise ValueError(
            f"node {node!r} of program {run.program.program!r} must be {_KINDS[kind]}, is {_KINDS[type(found)]}"
        )
    return found
