"""What a policy sees of a call, and of the KV that it has or left behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from tokencake.policies.api import CallView as CallProtocol
from tokencake.policies.api import ProgramView as ProgramProtocol
from tokencake.sim.calls import Call, Status
from tokencake.sim.config import PS
from tokencake.sim.program_view import ToolView

if TYPE_CHECKING:
    from tokencake.sim.host import Host
    from tokencake.sim.stall import Stall


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
        return MappingProxyType(self._call.node.labels)

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
