"""A stalled request of TokenCake: the KV chain of a call whose tool runs, and where it is on its way out and back.

The phases are those of the paper (section 4 of v2) and of the state machine of the authors' first implementation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from tokencake.policies.api import ChainView
from tokencake.policies.tokencake_metadata import Metadata


class Phase(Enum):
    """Where a stalled chain is."""

    STALLED = auto()
    """On the GPU; the gate was not asked yet, or said to stay."""
    ALLOCATING = auto()
    """The gate said to go; the CPU's allocator makes room."""
    OFFLOADING = auto()
    OFFLOADED = auto()
    RESERVING = auto()
    """GPU blocks are set aside, a part in each step."""
    UPLOADING = auto()
    RESIDENT = auto()
    """Back before its tool's end, or brought back by the call itself."""


@dataclass(slots=True)
class Stalled:
    """A chain whose tools run.

    Attributes:
        started: Tools under way and when each is expected to end.
        asked: The gate was asked.
        held: GPU blocks set aside.
        ready_s: When the CPU's allocator is done.
        alarm_s: When reserving for its way back begins; negative before that is known.
    """

    chain: ChainView
    meta: Metadata
    phase: Phase = Phase.STALLED
    started: dict[str, float] = field(default_factory=dict)
    asked: bool = False
    held: int = 0
    ready_s: float = 0.0
    alarm_s: float = -1.0

    @property
    def expected_s(self) -> float:
        """When its last tool is expected to end."""
        return max(self.started.values(), default=0.0)


def continues(chain: ChainView) -> bool:
    """Whether a call follows that waits for nothing but this call's tools: not the end, and not a join."""
    program, node = chain.call.program, chain.call.node
    tools = {tool.node: None for tool in chain.next_tools}
    for tool in tools:
        for follower in program.successors(tool):
            alone = all(before in tools or before == node for before in program.predecessors(follower))
            if alone and program.tool(follower) is None:
                return True
    return False
