"""The pieces that GPU memory is accounted in: copies of blocks, free stretches and holdings."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tokencake.sim.chains import Chain, Segment
from tokencake.sim.ring import Entry


class Extent:
    """One physical copy of blocks ``[lo, hi)`` of a segment.

    Holders hold a prefix of it: the blocks below ``held`` are referenced, those above are in the
    free list as ``runs``, deepest first.
    """

    __slots__ = ("depths", "held", "hi", "holders", "lo", "runs", "segment", "seq", "stores")

    def __init__(self, segment: Segment, lo: int, hi: int, seq: int):
        self.segment = segment
        self.lo = lo
        self.hi = hi
        self.held = lo
        self.seq = seq
        self.depths: dict[int, int] = {}
        self.holders: list[Holding] = []
        self.runs: list[FreeRun] = []
        self.stores: list[tuple[int, int, object]] = []

    def __repr__(self) -> str:
        return f"Extent[{self.lo}:{self.held}:{self.hi}] of {self.segment!r}"


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
        owner: What the blocks are accounted to; opaque to the pool.
    """

    __slots__ = ("chain", "growing", "hashed", "owner", "private", "spans")

    def __init__(self, chain: Chain, owner: object = None):
        self.chain = chain
        self.owner = owner
        self.hashed = 0
        self.private = 0
        self.growing: Segment | None = None
        self.spans: list[list[Extent | int]] = []

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
