"""The CPU tier: KV blocks in host memory, least recently used first out, as runs of blocks.

Follows vLLM 0.32 ``v1/kv_offload/cpu/manager.py`` with its ``lru`` policy: a block is ranked when
it is first stored, and again when a call that used it ends, that call's tail below its head; blocks
that are being written or read stay. Nothing is in the tier twice.

Consecutive blocks of a segment that were ranked together are one :class:`Stretch`.
:mod:`tokencake.sim.cpu_blocks` is the same tier block by block, for comparison.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tokencake.sim.chains import Chain, ContentTree, Segment
from tokencake.sim.extents import EvictKey

Parts = list[tuple[Segment, int, int]]
"""Blocks ``[lo, hi)`` of segments, in the order of a chain."""


class Stretch:
    """Consecutive blocks ``[lo, hi)`` of a segment with one rank and one state.

    Attributes:
        tail_first: Its deepest block is evicted first (otherwise its first one).
        writing: It is being written and holds nothing yet.
        readers: Copies to the GPU that are reading it.
        unread: It was never read since it was stored.
    """

    __slots__ = (
        "hi",
        "lo",
        "next",
        "owner",
        "prev",
        "readers",
        "segment",
        "tail_first",
        "unread",
        "writing",
    )

    def __init__(self, segment: Segment, lo: int, hi: int, owner: object):
        self.segment = segment
        self.lo = lo
        self.hi = hi
        self.owner = owner
        self.tail_first = False
        self.writing = True
        self.readers = 0
        self.unread = True
        self.prev: Stretch = self
        self.next: Stretch = self


class CpuTier:
    """Blocks of the CPU tier, by content.

    Args:
        blocks: Capacity.
        tree: Content of all chains.

    Attributes:
        cached: Blocks in the tier, those being written included.
        pinned: Blocks being written or read; they cannot be evicted.
        stored: Blocks written so far.
        used: Of those, blocks that were read at least once before they were evicted.
    """

    def __init__(self, blocks: int, tree: ContentTree):
        self.capacity = blocks
        self.cached = self.pinned = self.evicted = self.stored = self.used = 0
        self.evict_key: EvictKey | None = None
        self._tree = tree
        self._list = Stretch(tree.root, 0, 0, None)  # sentinel; oldest rank next to it
        self._of: dict[Segment, list[Stretch]] = {}

    @property
    def free(self) -> int:
        """Blocks that can be stored now, evictable ones included."""
        return self.capacity - self.pinned

    def match(self, chain: Chain, start: int, limit: int) -> tuple[int, bool]:
        """Consecutive blocks of a chain from ``start`` that the tier has or is about to have.

        Returns:
            Their number, and whether one of them is still being written.
        """
        at, pending = start, False
        for segment, lo, hi in chain.spans:
            stop = min(hi, limit)
            if stop <= at:
                if lo >= limit:
                    break
                continue
            for stretch in self._of.get(segment, ()):
                if stretch.lo <= at < stretch.hi:
                    pending = pending or stretch.writing
                    at = min(stretch.hi, stop)
                    if at == stop:
                        break
            if at < stop:
                break
        return at - start, pending

    def being_read(self, chain: Chain, start: int, limit: int) -> bool:
        """Whether a copy to the GPU is reading one of the blocks ``[start, limit)``."""
        return any(stretch.readers for stretch in self._overlapping(_parts(chain, start, limit)))

    def ready(self, chain: Chain, start: int, limit: int) -> list[tuple[int, int]]:
        """Ranges of blocks ``[start, limit)`` of a chain that are not being written."""
        if not self.pinned:
            return [(start, limit)]
        ranges, at = [], start
        for segment, lo, hi in _parts(chain, start, limit):
            stretches = self._of.get(segment)
            if not stretches or stretches[-1].hi <= lo:
                continue
            for stretch in stretches:
                if stretch.writing and stretch.lo < hi and stretch.hi > lo:
                    if stretch.lo > at:
                        ranges.append((at, stretch.lo))
                    at = min(stretch.hi, hi)
        if at < limit:
            ranges.append((at, limit))
        return ranges

    def begin_store(self, chain: Chain, start: int, limit: int, owner: object) -> Parts | None:
        """Make room for what the tier lacks of blocks ``[start, limit)``, and mark it as written.

        Args:
            chain: Chain of the blocks.
            start: First block.
            limit: Block after the last one.
            owner: Call the blocks are accounted to, for eviction orders.

        Returns:
            The blocks to copy, or None, with nothing changed, if there is no room.
        """
        wanted = _parts(chain, start, limit)
        missing = self._missing(wanted)
        count = sum([hi - lo for _, lo, hi in missing])
        surplus = self.cached + count - self.capacity
        if surplus > 0 and not self._evict(surplus, wanted if count < limit - start else []):
            return None
        for segment, lo, hi in missing:
            stretch = Stretch(segment, lo, hi, None if self.evict_key is None else owner)
            _link(stretch, self._list.prev)
            stretches = self._of.get(segment)
            if stretches is None:
                stretches = self._of[segment] = []
            stretches.append(stretch)
            if len(stretches) > 1:
                stretches.sort(key=_first_block)
            segment.cpu_blocks += hi - lo
        self.cached += count
        self.pinned += count
        return missing

    def end_store(self, parts: Parts, *, success: bool = True) -> None:
        """The blocks are written, or never will be."""
        for stretch in self._overlapping(parts):
            stretch.writing = False
            size = stretch.hi - stretch.lo
            self.pinned -= size
            if success:
                self.stored += size
            else:
                self._remove(stretch, size)

    def begin_load(self, chain: Chain, start: int, limit: int) -> Parts:
        """Keep blocks ``[start, limit)``, which the tier has, while they are read."""
        parts = _parts(chain, start, limit)
        self._cut(parts)
        for stretch in self._overlapping(parts):
            size = stretch.hi - stretch.lo
            if not stretch.readers:
                self.pinned += size
            stretch.readers += 1
            if stretch.unread:
                stretch.unread = False
                self.used += size
        return parts

    def end_load(self, parts: Parts) -> None:
        """The blocks were read."""
        for stretch in self._overlapping(parts):
            stretch.readers -= 1
            if not stretch.readers:
                self.pinned -= stretch.hi - stretch.lo

    def touch(self, chain: Chain, start: int, limit: int) -> None:
        """Make blocks ``[start, limit)`` of a chain the most recently used, the head above the tail."""
        parts = _parts(chain, start, limit)
        self._cut(parts)
        for stretch in reversed(self._overlapping(parts)):
            _unlink(stretch)
            _link(stretch, self._list.prev)
            stretch.tail_first = True

    def check(self) -> None:
        """Verify conservation; raises AssertionError with the equation."""
        listed = sum(s.hi - s.lo for s in self._oldest_first())
        assert listed == self.cached <= self.capacity, (
            f"cached {self.cached} (listed {listed}) <= capacity {self.capacity}"
        )
        busy = sum(s.hi - s.lo for s in self._oldest_first() if s.writing or s.readers)
        assert busy == self.pinned, f"pinned {self.pinned}, listed {busy}"

    # -- internals -----------------------------------------------------------------------------

    def _oldest_first(self) -> Iterator[Stretch]:
        stretch = self._list.next
        while stretch is not self._list:
            yield stretch
            stretch = stretch.next

    def _overlapping(self, parts: Parts) -> list[Stretch]:
        return [
            stretch
            for segment, lo, hi in parts
            for stretch in self._of.get(segment, ())
            if stretch.lo < hi and stretch.hi > lo
        ]

    def _missing(self, parts: Parts) -> Parts:
        missing: Parts = []
        for segment, lo, hi in parts:
            at = lo
            stretches = self._of.get(segment)
            if not stretches or stretches[-1].hi <= lo:
                missing.append((segment, lo, hi))
                continue
            for stretch in stretches:
                if stretch.hi <= at or stretch.lo >= hi:
                    continue
                if stretch.lo > at:
                    missing.append((segment, at, stretch.lo))
                at = stretch.hi
            if at < hi:
                missing.append((segment, at, hi))
        return missing

    def _cut(self, parts: Parts) -> None:
        """Make the ends of ``parts`` ends of stretches."""
        for segment, lo, hi in parts:
            for at in (lo, hi):
                for stretch in self._of.get(segment, ()):
                    if stretch.lo < at < stretch.hi:
                        self._split(stretch, at)
                        break

    def _split(self, stretch: Stretch, at: int) -> None:
        """Cut a stretch in two; both halves keep its rank and its order of eviction."""
        upper = Stretch(stretch.segment, at, stretch.hi, stretch.owner)
        upper.tail_first = stretch.tail_first
        upper.writing = stretch.writing
        upper.readers = stretch.readers
        upper.unread = stretch.unread
        stretch.hi = at
        stretches = self._of[stretch.segment]
        stretches.insert(stretches.index(stretch) + 1, upper)
        _link(upper, stretch.prev if stretch.tail_first else stretch)

    def _evict(self, count: int, protect: Parts) -> bool:
        self._cut(protect)
        protected = dict.fromkeys(self._overlapping(protect))
        order: Iterable[Stretch] = self._oldest_first()
        if self.evict_key is not None:
            rank: Any = self.evict_key
            order = sorted(order, key=lambda stretch: rank(stretch.owner))
        victims: list[Stretch] = []
        left = count
        for stretch in order:
            if stretch.writing or stretch.readers or stretch in protected:
                continue
            victims.append(stretch)
            left -= stretch.hi - stretch.lo
            if left <= 0:
                break
        if left > 0:
            return False
        left = count
        for stretch in victims:
            size = min(left, stretch.hi - stretch.lo)
            self._remove(stretch, size)
            left -= size
        self.evicted += count
        return True

    def _remove(self, stretch: Stretch, size: int) -> None:
        """Take the ``size`` blocks of a stretch that go first out of the tier."""
        segment = stretch.segment
        if stretch.tail_first:
            stretch.hi -= size
        else:
            stretch.lo += size
        self.cached -= size
        segment.cpu_blocks -= size
        if stretch.lo == stretch.hi:
            _unlink(stretch)
            stretches = self._of[segment]
            stretches.remove(stretch)
            if not stretches:
                del self._of[segment]
                if not segment.live:
                    self._tree.forget(segment)


def _link(stretch: Stretch, after: Stretch) -> None:
    stretch.prev, stretch.next = after, after.next
    after.next.prev = stretch
    after.next = stretch


def _unlink(stretch: Stretch) -> None:
    stretch.prev.next = stretch.next
    stretch.next.prev = stretch.prev


def _first_block(stretch: Stretch) -> int:
    return stretch.lo


def _parts(chain: Chain, start: int, limit: int) -> Parts:
    """Blocks ``[start, limit)`` of a chain by segment."""
    if len(chain.spans) == 1 and start < limit <= chain.blocks:
        return [(chain.spans[0][0], start, limit)]
    return [(segment, max(lo, start), min(hi, limit)) for segment, lo, hi in chain.spans if hi > start and lo < limit]
