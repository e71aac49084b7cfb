"""The policy interface: what a scheduling policy may decide, and what it may see.

A policy is one plain object. Every method has a default that *is* stock vLLM, so an empty subclass
of :class:`Policy` is the baseline, and a host skips every hook that a policy does not override.
Hooks are pure decisions: they read a :class:`View`, return values, and change nothing but the
policy's own state. The host checks legality and executes; what it refuses comes back through
:meth:`Policy.observe`.

Times are seconds. Sizes say their unit. Calls and KV chains are named by the id of the call,
``"<program>/<node>"``.

Order of one step, in every host: deliver events, then ``place(STEP)``, running calls in list order
(with ``victim``), and, if nobody was preempted, ``order`` and ``admit``; then the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import ClassVar, Protocol


class Info(Enum):
    """How much of the truth a policy may ask for, from nothing to everything."""

    NONE = 0
    CLASS_MEAN = 1
    HISTORY = 2
    NOISY_ORACLE = 3
    ORACLE = 4


class Verdict(Enum):
    """Answer of :meth:`Policy.admit`."""

    ADMIT = auto()
    SKIP = auto()
    """Try the next waiting call."""
    LATER = auto()
    """Offer this call once more, after all the others."""
    STOP = auto()
    """Admit nobody else in this step."""


class Trigger(Enum):
    """Why :meth:`Policy.place` is asked."""

    STALL = auto()
    """A call finished; its blocks are not freed yet. The subject is its KV chain."""
    RETURN = auto()
    """A tool that a call's KV waits for ended. The subject is that call's KV chain."""
    STEP = auto()
    """A step begins and something happened since the last one. No subject."""
    TIMER = auto()
    """A timer that the policy set went off. No subject."""
    PRESSURE = auto()
    """Nothing runs and nothing can be admitted: give something up. No subject."""
    QUEUED = auto()
    """A call arrived in the waiting queue. The subject is its own KV chain."""


class EventKind(Enum):
    """What happened, for :meth:`Policy.observe`."""

    PROGRAM_STARTED = auto()
    PROGRAM_FINISHED = auto()
    CALL_QUEUED = auto()
    CALL_ADMITTED = auto()
    CALL_PREEMPTED = auto()
    CALL_FINISHED = auto()
    TOOL_STARTED = auto()
    TOOL_FINISHED = auto()
    TRANSFER_DONE = auto()
    ACTION_REFUSED = auto()
    PIN_EXPIRED = auto()
    PIN_LIFTED = auto()
    RESERVES_LIFTED = auto()


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Attributes:
        kind: What.
        at: When, in seconds.
        program: Program id, if one is concerned.
        call: Call id, if one is concerned.
        node: Node id of a tool.
        tool: Tool name.
        estimate_s: Declared duration of a started tool, if the application declared one.
        elapsed_s: Measured duration of a finished tool or call.
        action: Refused action.
        reason: Why it was refused, or which way a transfer went.
        blocks: Blocks concerned.
        output_tokens: Outputs of a finished call.
    """

    kind: EventKind
    at: float
    program: str = ""
    call: str = ""
    node: str = ""
    tool: str = ""
    estimate_s: float | None = None
    elapsed_s: float | None = None
    action: Action | None = None
    reason: str = ""
    blocks: int = 0
    output_tokens: int = 0


# -- actions -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Release:
    """Let go of a chain's blocks; they stay findable until overwritten (stock vLLM)."""

    call: str = ""


@dataclass(frozen=True, slots=True)
class Keep:
    """Hold the leading ``blocks`` of a chain (all if None) until a time (or its return if None)."""

    until_s: float | None = None
    blocks: int | None = None
    call: str = ""


@dataclass(frozen=True, slots=True)
class Drop:
    """Let go of a chain and forget the blocks that nobody else holds."""

    call: str = ""


@dataclass(frozen=True, slots=True)
class Offload:
    """Copy the leading ``blocks`` of a chain (all if None) to the CPU tier, then release them.

    Without ``hold``, blocks that nobody holds are read where they are in the free list and may be
    reused; a step that does waits for the copy. Nothing becomes free or is held by it.
    """

    blocks: int | None = None
    call: str = ""
    hold: bool = True


@dataclass(frozen=True, slots=True)
class Prefetch:
    """Bring the leading ``blocks`` of a chain (all if None) back to the GPU and keep them."""

    blocks: int | None = None
    call: str = ""


@dataclass(frozen=True, slots=True)
class Unpin:
    """End a KEEP, a HOLD or a finished PREFETCH."""

    call: str = ""


@dataclass(frozen=True, slots=True)
class Hold:
    """Set ``blocks`` free GPU blocks aside for a coming PREFETCH of a chain."""

    blocks: int
    call: str = ""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop a chain's OFFLOAD or PREFETCH that is under way."""

    call: str = ""


@dataclass(frozen=True, slots=True)
class Preempt:
    """Preempt a running call; it recomputes later (vLLM V1 has no swap)."""

    call: str = ""


@dataclass(frozen=True, slots=True)
class Park:
    """Do not offer a program's waiting calls for admission."""

    program: str


@dataclass(frozen=True, slots=True)
class Unpark:
    """Offer a parked program's calls again."""

    program: str


@dataclass(frozen=True, slots=True)
class Reserve:
    """Replace the reservation plan: agent type to GPU blocks that only that type may use."""

    blocks: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Timer:
    """Ask ``place(TIMER)`` at a time."""

    at_s: float


Action = Release | Keep | Drop | Offload | Prefetch | Unpin | Hold | Cancel | Preempt | Park | Unpark | Reserve | Timer


# -- what a policy sees --------------------------------------------------------------------------


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
        """Leading blocks that are findable in the CPU tier now."""
        ...

    @property
    def pinned_blocks(self) -> int: ...
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
    """The GPU-CPU link."""

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
    def transfer_time(self, blocks: int, direction: str) -> float: ...


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
        """
        ...

    def foresee_tool(self, program: ProgramView, node: str) -> float | None:
        """Best knowledge of a tool call's duration, in seconds, at the policy's level.

        Raises:
            InformationError: The level is NONE.
        """
        ...


@dataclass(frozen=True, slots=True)
class Need:
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


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of one step.

    Attributes:
        tokens: Token budget; never above the configured one.
        chunk: Most prefill tokens of one call (0: no cap).
    """

    tokens: int
    chunk: int = 0


def stock_admit(need: Need) -> Verdict:
    """vLLM 0.32 admission: what does not fit ends the scan, so that nobody behind is tried.

    ``KVCacheManager.allocate_slots``: by default the whole known input must fit
    (``full_sequence_must_fit``); the host's configuration may say otherwise.
    """
    return Verdict.ADMIT if need.fits else Verdict.STOP


class Policy:
    """Base class of all policies; as it stands, it is stock vLLM with FCFS and prefix caching.

    Attributes:
        info: Information level; a host masks what lies above it. ``NONE`` for a policy that asks for no
            duration and no length.
        store_when: Causes for which ``store`` is asked.
        together: Decision points that make sense only with another one of the same policy, when
            policies are composed: hook to that other hook and the reason.
    """

    info: Info = Info.HISTORY
    store_when: tuple[str, ...] = ("prompt",)
    together: ClassVar[Mapping[str, tuple[str, str]]] = {}

    def observe(self, event: Event, view: View) -> None:
        """Learn from an event; decides nothing."""

    def order(self, view: View, waiting: Sequence[CallView]) -> Sequence[CallView]:
        """Order in which waiting calls are tried; one left out is deferred."""
        return waiting

    def admit(self, view: View, call: CallView, need: Need) -> Verdict:
        """Whether a waiting call starts now. ADMIT of what does not fit counts as STOP."""
        return stock_admit(need)

    def budget(self, view: View) -> Budget | None:
        """Limits of this step; None keeps the configured ones."""
        return None

    def victim(self, view: View, need: int, for_call: CallView) -> CallView:
        """Running call to preempt when ``need`` blocks are missing; asked once per preemption."""
        return view.running[-1]

    def place(self, view: View, trigger: Trigger, subject: ChainView | None) -> Sequence[Action]:
        """What to do with KV; an action without a call id concerns the subject."""
        return ()

    def evict_order(self, view: View, tier: str) -> Callable[[CallView], object] | None:
        """Key that says whose cached KV goes first (smaller first) in ``"gpu"`` or ``"cpu"``.

        The key is given the call that last released the KV. Empty blocks always go before cached
        ones, and equal keys by release order. None is plain LRU.
        """
        return None

    def store(self, view: View, chain: ChainView, cause: str) -> int:
        """Leading blocks of a chain to copy to the CPU tier, without holding them.

        Args:
            view: State of the host.
            chain: Chain of the call concerned.
            cause: One of :attr:`store_when`: ``"prompt"`` (a prefill chunk was scheduled),
                ``"output"`` (a decode step completes a block) or ``"finished"``.

        Returns:
            Number of leading blocks; those that the tier has already are not copied again.
        """
        return 0

    def next_change(self, view: View) -> tuple[float | None, int | None] | None:
        """Earliest time (seconds) and step at which the answers may change without an event.

        None means that they depend on events only. ``(None, view.step + 1)`` means every step.
        """
        return None


def overrides(policy: Policy, hook: str) -> bool:
    """Whether a policy decides at a hook, so that hosts can skip the ones it does not."""
    return getattr(type(policy), hook) is not getattr(Policy, hook) or hook in vars(policy)
