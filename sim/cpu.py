"""The CPU tier: KV blocks in host memory, least recently used first out, as runs of blocks.

Follows vLLM 0.32 ``v1/kv_offload/cpu/manager.py`` with its ``lru`` policy: a block is ranked when
it is first stored, and again when a call that used it ends, that call's tail below its head; blocks
that are being written or read stay. Nothing is in the tier twice.

Consecutive blocks of a segment that were ranked together are one :class:`Stretch`, so that the blocks of
a call are one when it has ended. :mod:`tokencake.sim.cpu_blocks` is the same tier block by block, for
comparison.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable
from operator import attrgetter
from typing import Any

from tokencake.sim.chains import Chain, ContentTree
from tokencake.sim.extents import EvictKey
from tokencake.sim.parts import Parts, parts_of
from tokencake.sim.ring import Ring
from tokencake.sim.stretch import WRITING, Stretch

_first_block = attrgetter("lo")
_end = attrgetter("hi")


class CpuTier:
    """Blocks of the CPU tier, by content.

    Args:
        blocks: Capacity.
        tree: Content of all chains; a segment knows its stretches, by first block.

    Attributes:
        cached: Blocks in the tier, those being written included.
        pinned: Blocks being written or read; they cannot be evicted.
        stored: Blocks written so far.
        used: Of those, blocks that were read at least once before they were evicted.
    """

    def __init__(self, blocks: int, tree: ContentTree):
        self.capacity = blocks
        self.cached = self.pinned = self.stored = self.used = 0
        self.evict_key: EvictKey | None = None
        self._tree = tree
        self._ranked = Ring(Stretch(tree.root, 0, 0, None))  # oldest first

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
            for stretch in segment.stretches:
                if stretch.lo <= at < stretch.hi:
                    pending = pending or stretch.readers == WRITING
                    at = min(stretch.hi, stop)
                    if at == stop:
                        break
            if at < stop:
                break
        return at - start, pending

    def being_read(self, chain: Chain, start: int, limit: int) -> bool:
        """Whether a copy to the GPU is reading one of the blocks ``[start, limit)``."""
        return any(stretch.readers > 0 for stretch in _deepest_first(parts_of(chain, start, limit)))

    def ready(self, chain: Chain, start: int, limit: int, begun: Parts) -> list[tuple[int, int]]:
        """Ranges of blocks ``[start, limit)`` of a chain that nobody was writing before ``begun`` began."""
        ranges, at = [], start
        for part in parts_of(chain, start, limit):
            for stretch in reversed(_deepest_first([part])):
                if stretch.readers == WRITING and (stretch.segment, stretch.lo, stretch.hi) not in begun:
                    if stretch.lo > at:
                        ranges.append((at, stretch.lo))
                    at = min(stretch.hi, part[2])
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
        missing = _missing(chain, start, limit)
        count = 0
        for _, lo, hi in missing:
            count += hi - lo
        surplus = self.cached + count - self.capacity
        if surplus > 0:
            present = parts_of(chain, start, limit) if count < limit - start else []
            if not self._evict(surplus, keep=present):
                return None
        for segment, lo, hi in missing:
            stretch = Stretch(segment, lo, hi, None if self.evict_key is None else owner)
            self._ranked.append(stretch)
            stretches = segment.stretches
            if stretches and stretches[-1].lo > lo:
                insort(stretches, stretch, key=_first_block)
            else:
                stretches.append(stretch)
        self.cached += count
        self.pinned += count
        return missing

    def end_store(self, parts: Parts, *, success: bool = True) -> None:
        """The blocks are written, or never will be."""
        for stretch in _deepest_first(parts):
            stretch.readers = 0
            size = stretch.hi - stretch.lo
            self.pinned -= size
            if success:
                self.stored += size
            else:
                self._remove(stretch, size)

    def begin_load(self, chain: Chain, start: int, limit: int) -> Parts:
        """Keep blocks ``[start, limit)``, which the tier has, while they are read."""
        parts = parts_of(chain, start, limit)
        for stretch in self._inside(parts):
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
        for stretch in _deepest_first(parts):
            stretch.readers -= 1
            if not stretch.readers:
                self.pinned -= stretch.hi - stretch.lo

    def touch(self, chain: Chain, start: int, limit: int) -> None:
        """Make blocks ``[start, limit)`` of a chain the most recently used, the head above the tail."""
        ranked = self._ranked
        upper: Stretch | None = None
        for stretch in self._inside(parts_of(chain, start, limit)):
            ranked.remove(stretch)
            if upper is not None and upper.continues(stretch):
                upper.lo = stretch.lo
                stretch.segment.stretches.remove(stretch)
            else:
                ranked.append(stretch)
                stretch.tail_first = True
                upper = stretch

    def check(self) -> None:
        """Verify conservation; raises AssertionError with the equation."""
        listed = sum(s.hi - s.lo for s in self._ranked)
        assert listed == self.cached <= self.capacity, (
            f"cached {self.cached} (listed {listed}) <= capacity {self.capacity}"
        )
        busy = sum(s.hi - s.lo for s in self._ranked if s.readers)
        assert busy == self.pinned, f"pinned {self.pinned}, listed {busy}"

    # -- internals -----------------------------------------------------------------------------

    def _inside(self, parts: Parts) -> list[Stretch]:
        """Stretches in ``parts``, deepest first, after those that reach beyond an end have been cut there."""
        for segment, lo, hi in parts:
            stretches = segment.stretches
            for end in (lo, hi):
                at = bisect_right(stretches, end, key=_end)
                if at < len(stretches) and stretches[at].lo < end:
                    lower = stretches[at]
                    upper = lower.cut(end)
                    stretches.insert(at + 1, upper)
                    self._ranked.insert(upper, after=lower.prev if lower.tail_first else lower)
        return _deepest_first(parts)

    def _evict(self, count: int, keep: Parts) -> bool:
        """Take out the ``count`` blocks that go first, none of ``keep``; False, changing nothing, if fewer can go."""
        kept = dict.fromkeys(self._inside(keep)) if keep else {}
        idle = self.cached - self.pinned
        for stretch in kept:
            if not stretch.readers:
                idle -= stretch.hi - stretch.lo
        if idle < count:
            return False
        order: Iterable[Stretch] = self._ranked
        if self.evict_key is not None:
            rank: Any = self.evict_key
            order = sorted(order, key=lambda stretch: rank(stretch.owner))
        left = count
        for stretch in order:
            if stretch.readers or stretch in kept:
                continue
            size = stretch.hi - stretch.lo
            self._remove(stretch, size if size < left else left)
            left -= size
            if left <= 0:
                break
        return True

    def _remove(self, stretch: Stretch, size: int) -> None:
        """Take the ``size`` blocks of a stretch that go first out of the tier."""
        self.cached -= size
        if stretch.tail_first:
            stretch.hi -= size
        else:
            stretch.lo += size
        if stretch.lo == stretch.hi:
            self._ranked.remove(stretch)
            segment = stretch.segment
            segment.stretches.remove(stretch)
            if not segment.stretches and not segment.live:
                self._tree.forget(segment)


def _deepest_first(parts: Parts) -> list[Stretch]:
    """Stretches that have blocks of ``parts``: mostly the tail of a segment, so that is where it looks first."""
    found = []
    for segment, lo, hi in reversed(parts):
        for stretch in reversed(segment.stretches):
            if stretch.hi <= lo:
                break
            if stretch.lo < hi:
                found.append(stretch)
    return found


def _missing(chain: Chain, start: int, limit: int) -> Parts:
    """Blocks ``[start, limit)`` of a chain that the tier lacks."""
    missing: Parts = []
    at = start
    for segment, _, hi in chain.spans:
        stop = hi if hi < limit else limit
        if stop <= at:
            continue
        if segment.stretches and segment.stretches[-1].hi > at:
            for stretch in reversed(_deepest_first([(segment, at, stop)])):
                if stretch.lo > at:
                    missing.append((segment, at, stretch.lo))
                at = stretch.hi
        if at < stop:
            missing.append((segment, at, stop))
        at = stop
    return missing
