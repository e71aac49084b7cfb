"""What the CPU tier is accounted in: blocks of a segment that were ranked together."""

from __future__ import annotations

from tokencake.sim.chains import Segment
from tokencake.sim.ring import Entry

WRITING = -1
"""Number of readers of blocks that hold nothing yet (vLLM's ``ref_cnt`` of a block that is not ready)."""


class Stretch(Entry):
    """Consecutive blocks ``[lo, hi)`` of a segment with one rank and one state.

    Attributes:
        owner: Call the blocks are accounted to, for eviction orders.
        readers: Copies to the GPU that are reading it, or :data:`WRITING`; 0: it may be evicted.
        tail_first: Its deepest block is evicted first (otherwise its first one).
        unread: It was never read since it was stored.
    """

    __slots__ = ("hi", "lo", "owner", "readers", "segment", "tail_first", "unread")

    def __init__(self, segment: Segment, lo: int, hi: int, owner: object):
        self.segment = segment
        self.lo = lo
        self.hi = hi
        self.owner = owner
        self.readers = WRITING
        self.tail_first = False
        self.unread = True

    def cut(self, at: int) -> Stretch:
        """Cut it before block ``at``; returns the upper part, which is as the lower one and ranked nowhere."""
        upper = Stretch(self.segment, at, self.hi, self.owner)
        upper.readers = self.readers
        upper.tail_first = self.tail_first
        upper.unread = self.unread
        self.hi = at
        return upper

    def continues(self, lower: Stretch) -> bool:
        """Whether it follows another one, in the same state, that nobody reads or writes."""
        return (
            lower.hi == self.lo
            and lower.segment is self.segment
            and not lower.readers
            and not self.readers
            and lower.unread == self.unread
            and lower.owner is self.owner
        )
