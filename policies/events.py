"""What a policy is told: events to observe, and why its placement is asked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokencake.policies.actions import Action


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
