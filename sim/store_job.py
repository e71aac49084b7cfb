"""A copy of a call's computed blocks to the CPU tier, from the decision to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokencake.sim.parts import Parts, count_blocks

if TYPE_CHECKING:
    from tokencake.sim.calls import Call
    from tokencake.sim.step import Step
    from tokencake.sim.transfer import Transfer


class StoreJob:
    """Blocks ``[lo, hi)`` of one call's chain, of which ``parts`` go to the CPU, read in place.

    Attributes:
        blocks: How many go to the CPU.
        reused: Blocks given to another call before the parts were known.
        step: The step whose end the copy waits for, if it does.
        transfer: The copy, once the parts are known.
    """

    __slots__ = ("blocks", "call", "hi", "lo", "parts", "reused", "step", "transfer")

    def __init__(self, call: Call, lo: int, hi: int, parts: Parts | None = None):
        self.call = call
        self.lo = lo
        self.hi = hi
        self.parts: Parts = parts or []
        self.blocks = count_blocks(parts) if parts else 0
        self.reused: list[tuple[int, int]] = []
        self.step: Step | None = None
        self.transfer: Transfer | None = None

    def reads(self, lo: int, hi: int) -> bool:
        """Whether one of the blocks ``[lo, hi)`` is copied."""
        return any(first < hi and last > lo for _, first, last in self.parts)
