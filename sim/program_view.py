"""What a policy sees of a program: its declared graph, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from tokencake.sim.calls import ProgramRun
from tokencake.sim.config import PS
from tokencake.traces.schema import LLMNode, ToolNode


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
        return MappingProxyType(self._run.program.labels)
