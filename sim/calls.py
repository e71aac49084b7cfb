"""State of a program and of a call inside a host."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from tokencake.sim.extents import Holding
from tokencake.traces.resolve import resolve
from tokencake.traces.schema import LLMNode, Node, Piece, Program, ToolNode

if TYPE_CHECKING:
    from tokencake.sim.call_view import ChainView
    from tokencake.traces.resolve import Resolved


class Status(IntEnum):
    """Life cycle of a call."""

    BLOCKED = 0
    WAITING = 1
    LOADING = 2
    LOADED = 3
    RUNNING = 4
    PREEMPTED = 5
    FINISHED = 6
    REFUSED = 7


class ProgramRun:
    """One program on its way through a host.

    Attributes:
        program: What the trace says.
        arrival_ps: When it arrived.
        pending: Number of dependencies that a node still waits for, by node id; none is left out.
        followers: Nodes that wait for a node, by node id.
        finished: Ids of the nodes that ended, in order.
        attained_ps: Service time of its finished calls, from first admission to finish.
        active: Nodes ready or running.
        tools: Tool calls that ended; ``tool_ps``: their time.
        parked: Its waiting calls are not offered for admission.
        refused: One of its calls can never run.
        rows: Result rows of its calls.
    """

    __slots__ = (
        "_resolved",
        "active",
        "arrival_ps",
        "attained_ps",
        "calls",
        "finished",
        "followers",
        "nodes",
        "parked",
        "pending",
        "program",
        "refused",
        "rows",
        "tool_ps",
        "tool_started_ps",
        "tools",
        "view",
    )

    def __init__(self, program: Program, arrival_ps: int):
        self.program = program
        self._resolved: Mapping[str, Resolved] | None = None
        self.arrival_ps = arrival_ps
        self.nodes: dict[str, Node] = {}
        self.pending: dict[str, int] = {}
        self.followers: dict[str, list[Node]] = {}
        for node in program.nodes:
            self.nodes[node.id] = node
            if node.after:
                self.pending[node.id] = len(node.after)
                for before in node.after:
                    self.followers.setdefault(before, []).append(node)
        self.calls: dict[str, Call] = {}
        self.finished: list[str] = []
        self.tool_started_ps: dict[str, int] = {}
        self.attained_ps = self.tool_ps = 0
        self.active = self.tools = 0
        self.parked = self.refused = False
        self.rows: list[tuple[Any, ...]] = []
        self.view: object = None

    def let_go(self) -> None:
        """Untie what ended, so that memory is freed without a search for cycles."""
        for call in self.calls.values():
            call.view = call.chain_view = None
            if call.status is not Status.REFUSED:
                call.holding.owner = None
        self.calls.clear()
        self.view = None

    @property
    def resolved(self) -> Mapping[str, Resolved]:
        """Content of its LLM calls, by node id."""
        if self._resolved is None:
            self._resolved = resolve(self.program)
        return self._resolved

    def prompt_tokens(self, node: LLMNode) -> int:
        """Length of a call's prompt."""
        total = 0
        for part in node.prompt:
            if not isinstance(part, Piece):
                return self.resolved[node.id].prompt_tokens
            total += part.tokens
        return total

    def following_calls(self, node_id: str) -> list[LLMNode]:
        """LLM nodes that follow a node directly or through tools only, in file order."""
        found: dict[str, LLMNode] = {}
        stack = list(self.followers.get(node_id, ()))
        while stack:
            node = stack.pop(0)
            if isinstance(node, LLMNode):
                found[node.id] = node
            else:
                stack.extend(self.followers.get(node.id, ()))
        return list(found.values())

    def following_tools(self, node_id: str) -> list[ToolNode]:
        """Tools that follow a node directly."""
        return [n for n in self.followers.get(node_id, ()) if isinstance(n, ToolNode)]


class Call:
    """One LLM call inside a host.

    Token counts follow vLLM's ``Request``: ``computed`` is what has been scheduled so far and runs
    ahead of what has returned; ``known`` is the number of output tokens that have returned, so the
    call has ``prompt + known`` tokens; ``produced`` counts outputs scheduled.

    While a call decodes, :class:`tokencake.sim.decode.DecodeSet` advances it in bulk, and
    ``computed``, ``produced`` and ``holding`` are those of ``joined_tick`` until it is synced.

    ``reached`` is the most that it had computed when it was preempted, and ``in_vain`` says that at its last
    preemption it had got no further than that. ``preempted_ps`` is when that was; what it waited after preemptions is
    ``prefill_preempted_ps`` until its first token, and ``decode_preempted_ps`` after it.
    """

    __slots__ = (
        "accessed",
        "admitted_ps",
        "arrival_ps",
        "chain_view",
        "computed",
        "cpu_hit_tokens",
        "decode_preempted_ps",
        "decoding",
        "finish_tick",
        "first_token_ps",
        "gpu_hit_tokens",
        "holding",
        "id",
        "in_vain",
        "joined_tick",
        "known",
        "last_step",
        "load",
        "node",
        "offered",
        "order",
        "output",
        "preempted_ps",
        "preemptions",
        "prefill_preempted_ps",
        "produced",
        "program",
        "prompt",
        "reached",
        "recomputed",
        "run_order",
        "status",
        "stored",
        "stores",
        "view",
    )

    holding: Holding  # from when it is queued

    def __init__(self, program: ProgramRun, node: LLMNode, order: int, prompt: int):
        self.program = program
        self.node = node
        self.id = f"{program.program.program}/{node.id}"
        self.order = order
        self.prompt = prompt
        self.output = node.output_tokens
        self.status = Status.BLOCKED
        self.arrival_ps = 0
        self.admitted_ps = self.first_token_ps = self.preempted_ps = -1
        self.prefill_preempted_ps = self.decode_preempted_ps = 0
        self.computed = self.known = self.produced = 0
        self.decoding = False
        self.joined_tick = self.finish_tick = 0
        self.run_order = 0
        self.last_step = -1
        self.preemptions = self.recomputed = self.reached = 0
        self.in_vain = False
        self.gpu_hit_tokens = self.cpu_hit_tokens = 0
        self.stored = self.offered = 0
        self.stores = 0
        self.accessed: list[tuple[int, int]] = []
        self.load: object = None
        self.view: object = None
        self.chain_view: ChainView | None = None

    @property
    def tokens(self) -> int:
        """Tokens that need KV before the next output can be computed (vLLM ``num_tokens``)."""
        return self.prompt + self.known

    def lose(self, computed: int) -> None:
        """Its memory was taken when it had ``computed`` tokens; it starts again."""
        self.in_vain = computed <= self.reached
        self.reached = max(self.reached, computed)
        self.status = Status.PREEMPTED
        self.computed = 0
        self.preemptions += 1

    def admitted(self, now_ps: int) -> None:
        """It leaves the queue; what it waited since a preemption is counted by whether it had its first token."""
        if self.admitted_ps < 0:
            self.admitted_ps = now_ps
            return
        first = now_ps if self.first_token_ps < 0 else max(self.first_token_ps, self.preempted_ps)
        self.prefill_preempted_ps += first - self.preempted_ps
        self.decode_preempted_ps += now_ps - first

    def access(self, lo: int, hi: int) -> None:
        """Note that it offered or loaded blocks ``[lo, hi)`` of its chain; they are ranked again when it ends."""
        ranges = self.accessed
        if ranges and ranges[-1][1] == lo:
            lo = ranges.pop()[0]
        ranges.append((lo, hi))

    def __repr__(self) -> str:
        return f"Call({self.id}, {self.status.name}, {self.computed}/{self.prompt}+{self.known})"
