"""The pieces that GPU memory is accounted in: copies of blocks, free stretches and holdings."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tokencake.sim.chains import Chain, Segment
from tokencake.sim.ring import Entry, Ring


class Extent:
    """One physical copy of blocks ``[lo, hi)`` of a segment.

    Holders hold a prefix of it: the blocks below ``held`` are referenced, those above are in the
    free list as ``runs``, deepest first.
    """

    __slots__ = ("depths", "held", "hi", "holders", "lo", "runs", "segment", "seq", "watches")

    def __init__(self, segment: Segment, lo: int, hi: int, seq: int):
        self.segment = segment
        self.lo = lo
        self.hi = hi
        self.held = lo
        self.seq = seq
        self.depths: dict[int, int] = {}
        self.holders: list[Holding] = []
        self.runs: list[FreeRun] = []
        self.watches: list[tuple[int, int, object]] = []

    def __repr__(self) -> str:
        return f"Extent[{self.lo}:{self.held}:{self.hi}] of {self.segment!r}"

    def cut(self, at: int, ring: Ring[FreeRun]) -> Extent:
        """Cut it in two at block ``at``; returns the upper part.

        Args:
            at: First block of the upper part.
            ring: The free list, where a free run may have to be cut as well.
        """
        upper = Extent(self.segment, at, self.hi, self.seq)
        self.hi = at
        upper.held = max(at, self.held)
        self.held = min(at, self.held)
        siblings = self.segment.extents
        siblings.insert(siblings.index(self) + 1, upper)
        for depth in sorted(d for d in self.depths if d > at):
            count = self.depths.pop(depth)
            upper.depths[depth] = count
            self.depths[at] = self.depths.get(at, 0) + count
        for holding in list(self.holders):
            spans = holding.spans
            for position, (extent, depth) in enumerate(spans):
                if extent is self:
                    if depth > at:
                        upper.holders.append(holding)
                        spans[position : position + 1] = (self, at), (upper, depth)
                    break
        kept: list[FreeRun] = []
        for run in self.runs:
            if run.lo >= at:
                run.extent = upper
                upper.runs.append(run)
            elif run.hi > at:
                deep = FreeRun(upper, at, run.hi, run.owner)
                upper.runs.append(deep)
                ring.insert(deep, after=run.prev)
                run.hi = at
                kept.append(run)
            else:
                kept.append(run)
        self.runs = kept
        return upper


Span = tuple[Extent, int]
"""A copy, and up to which of its blocks somebody holds it."""


class FreeRun(Entry):
    """A stretch of the free list: blocks ``[lo, hi)`` of an extent, or ``hi`` empty blocks."""

    __slots__ = ("extent", "hi", "lo", "owner")

    def __init__(self, extent: Extent | None, lo: int, hi: int, owner: object = None):
        self.extent = extent
        self.lo = lo
        self.hi = hi
        self.owner = owner


class Holding:
    """The GPU blocks that one call (or pin, or transfer) holds of its chain.

    Attributes:
        chain: Content of the blocks.
        hashed: Leading blocks of the chain that are held and findable by others.
        private: Further blocks that are held but hold no complete, hashed content yet.
        spans: The copies that the hashed blocks are, in order, and up to which block of each.
        owner: What the blocks are accounted to; opaque to the pool.
    """

    __slots__ = ("chain", "growing", "hashed", "owner", "private", "spans")

    def __init__(self, chain: Chain, owner: object = None):
        self.chain = chain
        self.owner = owner
        self.hashed = 0
        self.private = 0
        self.growing: Segment | None = None
        self.spans: list[Span] = []

    @property
    def blocks(self) -> int:
        """All blocks held."""
        return self.hashed + self.private


class Match(NamedTuple):
    """Result of a prefix lookup; it names copies, so it is valid until the pool changes.

    Attributes:
        parts: Extents with the block range to take from each.
        blocks: Leading blocks of the chain found.
        free: Those of them that nobody holds (taking them makes the pool smaller).
    """

    parts: tuple[tuple[Extent, int, int], ...]
    blocks: int
    free: int


NO_MATCH = Match((), 0, 0)

EvictKey = Callable[[object], object]


def covering(extents: list[Extent], block: int) -> tuple[Extent | None, int]:
    """The oldest copy of a block, and up to which block it stays the oldest."""
    if len(extents) == 1:
        extent = extents[0]
        return (extent, extent.hi) if extent.lo <= block < extent.hi else (None, block)
    best: Extent | None = None
    for extent in extents:
        if extent.lo <= block < extent.hi and (best is None or extent.seq < best.seq):
            best = extent
    if best is None:
        return None, block
    end = best.hi
    for extent in extents:
        if extent.seq < best.seq and block < extent.lo < end:
            end = extent.lo
    return best, end


def later_copy(extents: list[Extent], extent: Extent, lo: int, hi: int) -> bool:
    """Whether growing into ``[lo, hi)`` would overtake a copy: of a younger extent, or one cut off this one."""
    return any(e.seq >= extent.seq and e.lo < hi and e.hi > lo for e in extents)
