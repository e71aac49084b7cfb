"""What a policy sees: read-only views of a host, computed when asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol


class InformationError(Exception):
    """A policy asked for a truth that its information level hides."""


class ToolView(Protocol):
    """A tool call: declared facts, and how long it has been running."""

    @property
    def node(self) -> str: ...
    @property
    def tool(self) -> str: ...
    @property
    def estimate_s(self) -> float | None: ...
    @property
    def started_s(self) -> float | None: ...


class ProgramView(Protocol):
    """A program and its declared graph."""

    @property
    def id(self) -> str: ...
    @property
    def app(self) -> str: ...
    @property
    def arrival_s(self) -> float: ...
    @property
    def attained_s(self) -> float:
        """Service time of its finished calls (admission to finish), in seconds."""
        ...

    @property
    def nodes(self) -> Sequence[str]: ...
    def successors(self, node: str) -> Sequence[str]: ...
    def predecessors(self, node: str) -> Sequence[str]: ...
    def tool(self, node: str) -> ToolView | None:
        """The tool call at a node; None if the node is an LLM call."""
        ...

    def agent_type(self, node: str) -> str:
        """Agent type of the LLM call at a node; empty if the node is a tool call."""
        ...

    @property
    def finished(self) -> Sequence[str]:
        """Ids of the nodes that have ended, in order of their end."""
        ...

    @property
    def labels(self) -> Mapping[str, object]: ...


class CallView(Protocol):
    """One LLM call."""

    @property
    def id(self) -> str: ...
    @property
    def program(self) -> ProgramView: ...
    @property
    def node(self) -> str: ...
    @property
    def agent(self) -> str: ...
    @property
    def agent_type(self) -> str: ...
    @property
    def arrival_s(self) -> float: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int:
        """Output tokens generated so far (not the final number, which is a truth)."""
        ...

    @property
    def computed_tokens(self) -> int: ...
    @property
    def max_tokens(self) -> int | None:
        """Declared output limit; None if undeclared."""
        ...

    @property
    def gpu_blocks(self) -> int: ...
    @property
    def own_blocks(self) -> int:
        """Of its GPU blocks, those that nobody else holds: what preempting it would free."""
        ...

    @property
    def preemptions(self) -> int: ...
    @property
    def importance(self) -> float: ...
    @property
    def critical(self) -> bool: ...
    @property
    def labels(self) -> Mapping[str, object]: ...


class ChainView(Protocol):
    """The KV chain of a call, while it runs, waits or stalls."""

    @property
    def call(self) -> CallView: ...
    @property
    def blocks(self) -> int:
        """Full blocks of the chain computed so far."""
        ...

    @property
    def gpu_blocks(self) -> int:
        """Leading blocks that are findable on the GPU now."""
        ...

    @property
    def cpu_blocks(self) -> int:
        """Leading blocks that the CPU tier has, or that are on their way there."""
        ...

    @property
    def pinned_blocks(self) -> int: ...
    @property
    def own_blocks(self) -> int:
        """Of the pinned blocks, those that nobody else holds: what letting go of them would free."""
        ...

    @property
    def next_calls(self) -> Sequence[str]:
        """Nodes of the LLM calls that follow, directly or after tools; empty at a program's end."""
        ...

    @property
    def next_tools(self) -> Sequence[ToolView]:
        """Tools that follow directly."""
        ...

    @property
    def stalled_s(self) -> float | None:
        """When the call finished; None before."""
        ...


class TierView(Protocol):
    """Capacity of a memory tier, in blocks."""

    @property
    def capacity(self) -> int: ...
    @property
    def free(self) -> int:
        """Blocks that can be allocated now (GPU: cached but unreferenced ones included)."""
        ...

    @property
    def cached(self) -> int: ...
    @property
    def pinned(self) -> int: ...


class LinkView(Protocol):
    """The GPU-CPU link.

    Bandwidths are the configured ones also where ``bounds.free_transfer`` lets copies take no time; what a
    copy takes is :meth:`CostView.transfer_time`.
    """

    @property
    def d2h_bytes_per_s(self) -> float: ...
    @property
    def h2d_bytes_per_s(self) -> float: ...
    @property
    def d2h_queued_bytes(self) -> int: ...
    @property
    def h2d_queued_bytes(self) -> int: ...


class CostView(Protocol):
    """Cost model of the hardware, in seconds."""

    def prefill_time(self, new_tokens: int, context_tokens: int = 0) -> float: ...
    def step_time(self, batch: int, context_tokens: int) -> float: ...
    def transfer_time(self, blocks: int, direction: str) -> float:
        """A copy that has its direction ("d2h" or "h2d") to itself; 0 with ``bounds.free_transfer``."""
        ...


class View(Protocol):
    """Read-only state of a host at one moment; everything is computed when asked."""

    @property
    def now(self) -> float: ...
    @property
    def step(self) -> int:
        """Number of the step that is being planned, or was planned last."""
        ...

    @property
    def block_size(self) -> int: ...
    @property
    def token_budget(self) -> int: ...
    @property
    def max_running(self) -> int: ...
    @property
    def gpu(self) -> TierView: ...
    @property
    def cpu(self) -> TierView: ...
    @property
    def link(self) -> LinkView: ...
    @property
    def cost(self) -> CostView: ...
    @property
    def waiting(self) -> Sequence[CallView]: ...
    @property
    def running(self) -> Sequence[CallView]: ...
    @property
    def loading(self) -> Sequence[CallView]:
        """Admitted calls that hold blocks while a copy from the CPU tier fills them, or has just done so."""
        ...

    @property
    def stalled(self) -> Sequence[ChainView]:
        """Chains of finished calls whose next calls have not all been admitted, oldest first."""
        ...

    @property
    def reserved(self) -> Mapping[str, int]: ...
    def need(self, call: CallView) -> Need | None:
        """What a waiting call would take if it were admitted now, with the configured token budget.

        Changes nothing. None: it cannot start in this step, whatever is free (it does not wait, or a
        transfer must end first).
        """
        ...

    def foresee_output(self, call: CallView) -> float | None:
        """Best knowledge of a call's output tokens at the policy's information level.

        Raises:
            InformationError: The level is NONE.
        """
        ...

    def foresee_call(self, program: ProgramView, node: str) -> float | None:
        """The same for the LLM call at a node, whether it has arrived or not.

        Raises:
            InformationError: The level is NONE.
            ValueError: The program has no such LLM call.
        """
        ...

    def foresee_tool(self, program: ProgramView, node: str) -> float | None:
        """Best knowledge of a tool call's duration, in seconds, at the policy's level.

        Raises:
            InformationError: The level is NONE.
            ValueError: The program has no such tool call.
        """
        ...


class Need(NamedTuple):
    """What admitting a call takes, in blocks; computed by the host without side effects.

    Attributes:
        chunk: New blocks for the tokens that would be computed or loaded in this step.
        full: New blocks until all known tokens have a slot (prompt, and outputs if resumed).
        gpu_hit: Leading blocks found on the GPU.
        cpu_hit: Blocks after those found in the CPU tier.
        free_hits: Found GPU blocks that are in the free list, and stop being free.
        fits: Whether stock vLLM would admit it, as configured, and reservations leave room.
    """

    chunk: int
    full: int
    gpu_hit: int
    cpu_hit: int
    free_hits: int
    fits: bool
