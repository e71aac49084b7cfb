"""What ``place`` may answer: actions on KV, programs and reservations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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
    """Preempt a running call; it recomputes later (vLLM V1 has no swap). Refused at STALL; STEP follows at once."""

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
    """Ask ``place(TIMER)`` at a time, or when the step is planned that comes ``steps`` after :attr:`View.step`.

    Once, however often that is set.
    """

    at_s: float | None = None
    steps: int | None = None


Action = Release | Keep | Drop | Offload | Prefetch | Unpin | Hold | Cancel | Preempt | Park | Unpark | Reserve | Timer
