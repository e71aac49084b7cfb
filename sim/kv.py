"""GPU KV memory as runs of blocks: the fast pool.

vLLM's pool (``v1/core/block_pool.py``, 0.32) moves single blocks through one linked list. Blocks
of a call enter that list together, tail first, and leave it from the head, so what is resident of
a segment is nearly always a prefix, and the list is a short list of runs. This pool keeps exactly
that (:mod:`tokencake.sim.extents`): an :class:`Extent` is one physical copy of consecutive blocks, a
:class:`FreeRun` is a part of it that nobody holds. Every operation costs the number of runs touched,
not of blocks.

:mod:`tokencake.sim.blocks` holds the same pool block by block; a test plays random histories
through both and compares every answer.
"""

from __future__ import annotations

from collections.abc import Callable

from tokencake.sim.chains import Chain, ContentTree, Segment
from tokencake.sim.extents import (
    NO_MATCH,
    EvictKey,
    Extent,
    FreeRun,
    Holding,
    Match,
    covering,
    later_copy,
)
from tokencake.sim.free_list import FreeList
from tokencake.sim.watches import Watches


class RunPool:
    """GPU block pool with prefix caching, as runs.

    Args:
        blocks: Usable blocks (vLLM's pool less its null block).
        tree: Content of all chains.
        caching: Whether full blocks are hashed and can be hit.
        unhashed_first: Unhashed blocks are reused first (vLLM 0.32) or last (0.22).
    """

    def __init__(self, blocks: int, tree: ContentTree, *, caching: bool = True, unhashed_first: bool = True):
        self.capacity = blocks
        self.free = blocks
        self.cached = 0
        self.evicted = 0
        self.evict_key: EvictKey | None = None
        self._tree = tree
        self._caching = caching
        self._seq = 0
        self._watches = Watches()
        self._list = FreeList(blocks, empty_first=unhashed_first)

    @property
    def on_reuse(self) -> Callable[[object, int, int], None] | None:
        """Told job and blocks ``[lo, hi)`` when blocks that it watches are reused."""
        return self._watches.on_reuse

    @on_reuse.setter
    def on_reuse(self, tell: Callable[[object, int, int], None] | None) -> None:
        self._watches.on_reuse = tell

    # -- lookup -----------------------------------------------------------------------------

    def match(self, chain: Chain, limit: int) -> Match:
        """Longest findable run of leading blocks of a chain, up to ``limit``; changes nothing."""
        if limit <= 0 or not self._caching:
            return NO_MATCH
        parts: list[tuple[Extent, int, int]] = []
        at = free = 0
        for segment, _, hi in chain.spans:
            stop = hi if hi < limit else limit
            if stop <= at:
                break
            extents = segment.extents
            while at < stop:
                extent, end = covering(extents, at)
                if extent is None:
                    break
                if end > stop:
                    end = stop
                parts.append((extent, at, end))
                held = extent.held
                if end > held:
                    free += end - (at if at > held else held)
                at = end
            if at < stop:
                break
        return Match(tuple(parts), at, free) if at else NO_MATCH

    # -- take and give back -------------------------------------------------------------------

    def acquire(self, holding: Holding, match: Match) -> None:
        """Add a reference to every matched block; free ones leave the free list."""
        for extent, lo, hi in match.parts:
            if lo > extent.lo:
                extent = self._split(extent, lo)
            if hi > extent.held:
                self._touch(extent, hi)
            extent.depths[hi] = extent.depths.get(hi, 0) + 1
            extent.holders.append(holding)
            holding.spans.append((extent, hi))
        holding.hashed += match.blocks

    def take(self, holding: Holding, count: int) -> None:
        """Move ``count`` blocks from the head of the free list to ``holding`` as private blocks.

        Raises:
            ValueError: Fewer than ``count`` blocks are free.
        """
        if count > self.free:
            raise ValueError(f"cannot take {count} blocks, {self.free} are free")
        holding.private += count
        self.free -= count
        end = self._list.end
        run = end.next
        if run.hi - run.lo > count and self.evict_key is None:  # nearly always
            extent = run.extent
            if extent is None:
                run.hi -= count
                return
            if run.hi == extent.hi and not extent.watches:
                run.hi = extent.hi = run.hi - count
                self.cached -= count
                self.evicted += count
                return
        while count:
            run = end.next
            size = run.hi - run.lo
            if self.evict_key is not None:
                run, size = self._list.choose(self.evict_key)
            taken = size if size < count else count
            count -= taken
            run.hi -= taken
            if run.extent is not None:
                self._overwrite(run.extent, run, taken)
            elif run.hi == run.lo:
                self._list.remove(run)

    def grow(self, holding: Holding, hashed: int) -> None:
        """Hash private blocks so that the leading ``hashed`` blocks of the chain are findable."""
        at = holding.hashed
        if hashed <= at or not self._caching:
            return
        for segment, _, hi in holding.chain.spans:
            if hi <= at:
                continue
            stop = hi if hi < hashed else hashed
            if stop <= at:
                break
            self._hash(holding, segment, at, stop)
            at = stop
        holding.private -= at - holding.hashed
        holding.hashed = at

    def release(self, holding: Holding) -> None:
        """Drop all references; hashed blocks stay findable until they are overwritten.

        A call's tail enters the list before its head (``KVCacheManager.free``).
        """
        if holding.private:
            self.free += holding.private
            self._list.add_empty(holding.private)
            holding.private = 0
        for extent, depth in reversed(holding.spans):
            self._drop_reference(extent, depth, holding)
        holding.spans.clear()
        holding.hashed = 0

    def truncate(self, holding: Holding, blocks: int) -> None:
        """Drop the references above the leading ``blocks`` hashed blocks, and private blocks."""
        if holding.private:
            self.free += holding.private
            self._list.add_empty(holding.private)
            holding.private = 0
        while holding.hashed > blocks:
            extent, depth = holding.spans.pop()
            keep = max(extent.lo, blocks)
            if keep > extent.lo:
                extent.depths[keep] = extent.depths.get(keep, 0) + 1
                extent.holders.append(holding)
                holding.spans.append((extent, keep))
            self._drop_reference(extent, depth, holding)
            holding.hashed = keep

    def move(self, source: Holding, target: Holding, count: int) -> None:
        """Hand ``count`` private blocks over."""
        source.private -= count
        target.private += count

    def hand_over(self, source: Holding, target: Holding) -> None:
        """Let ``target``, which must be empty, hold what ``source`` holds."""
        for extent, _ in source.spans:
            holders = extent.holders
            holders[holders.index(source)] = target
        target.spans, source.spans = source.spans, target.spans
        target.hashed, source.hashed = source.hashed, 0
        target.private, source.private = source.private, 0

    def charges(self, holdings: list[Holding]) -> list[tuple[Holding, int]]:
        """Blocks of each holding that none before it in the list holds too."""
        counted: dict[int, int] = {}
        result: list[tuple[Holding, int]] = []
        for holding in holdings:
            blocks = holding.private
            for extent, depth in holding.spans:
                known = counted.get(id(extent), extent.lo)
                if depth > known:
                    blocks += depth - known
                    counted[id(extent)] = depth
            result.append((holding, blocks))
        return result

    def own(self, holding: Holding) -> int:
        """Blocks of a holding that nobody else holds."""
        blocks = holding.private
        for extent, depth in holding.spans:
            depths = extent.depths
            if depth == extent.held and depths[depth] == 1:
                blocks += depth - max((d for d in depths if d != depth), default=extent.lo)
        return blocks

    def watch(self, holding: Holding, lo: int, hi: int, job: object) -> None:
        """Tell ``on_reuse`` about ``job``, and which blocks, if held blocks in ``[lo, hi)`` are ever reused."""
        self._watches.add(((extent, extent.lo, depth) for extent, depth in holding.spans), lo, hi, job)

    def watch_found(self, match: Match, lo: int, hi: int, job: object) -> None:
        """As :meth:`watch`, for blocks that a lookup found, held or not."""
        self._watches.add(match.parts, lo, hi, job)

    def watchers(self, holding: Holding) -> list[tuple[object, int, int]]:
        """Jobs that watch blocks which ``holding`` holds, and which."""
        return self._watches.of(holding)

    def unwatch(self, job: object) -> None:
        """``job`` no longer cares."""
        self._watches.drop(job)

    def forget(self, chain: Chain, start: int) -> int:
        """Forget the hashes of blocks from ``start`` that nobody holds; they are reused next.

        Returns:
            Blocks that became empty.
        """
        forgotten = 0
        for segment, lo, hi in reversed(chain.spans):
            for extent in list(segment.extents):
                if extent.lo >= hi:
                    continue
                if extent.hi > hi:
                    self._split(extent, hi)
                floor = max(start, lo, extent.held)
                for run in list(extent.runs):
                    if run.hi <= floor:
                        continue
                    count = run.hi - max(run.lo, floor)
                    run.hi -= count
                    self._overwrite(extent, run, count)
                    forgotten += count
        self.evicted -= forgotten  # given up, not overwritten
        if forgotten:
            self._list.insert(FreeRun(None, 0, forgotten), after=None)
        return forgotten

    # -- internals -----------------------------------------------------------------------------

    def _hash(self, holding: Holding, segment: Segment, lo: int, hi: int) -> None:
        extents = segment.extents
        if holding.spans:
            extent, depth = holding.spans[-1]
            if (
                extent.hi == lo == depth
                and extent.segment is segment
                and (len(extents) == 1 or not later_copy(extents, extent, lo, hi))
            ):
                extent.hi = extent.held = hi
                holding.spans[-1] = extent, hi
                depths = extent.depths
                others = depths.pop(lo) - 1
                if others:
                    depths[lo] = others
                depths[hi] = 1
                return
        self._seq += 1
        extent = Extent(segment, lo, hi, self._seq)
        extent.held = hi
        extent.depths[hi] = 1
        extent.holders.append(holding)
        extents.append(extent)
        holding.spans.append((extent, hi))

    def _drop_reference(self, extent: Extent, depth: int, holding: Holding) -> None:
        depths = extent.depths
        left = depths[depth] - 1
        extent.holders.remove(holding)
        if left:
            depths[depth] = left
            return
        del depths[depth]
        if depth < extent.held:
            return
        held = max(depths) if depths else extent.lo
        extent.held = held
        # Only an eviction order asks for the owner, and cached blocks would keep it, with its program, alive.
        run = FreeRun(extent, held, depth, None if self.evict_key is None else holding.owner)
        extent.runs.append(run)
        self._list.append(run)
        self.free += depth - held
        self.cached += depth - held

    def _touch(self, extent: Extent, upto: int) -> None:
        runs = extent.runs
        taken = upto - extent.held
        while runs and runs[-1].lo < upto:
            run = runs[-1]
            if run.hi > upto:
                run.lo = upto
                break
            runs.pop()
            self._list.remove(run)
        extent.held = upto
        self.free -= taken
        self.cached -= taken

    def _overwrite(self, extent: Extent, run: FreeRun, count: int) -> None:
        """Forget ``count`` blocks of an extent that came after the end of ``run``."""
        end = run.hi
        if end + count < extent.hi:
            self._split(extent, end + count)
        if extent.watches:
            self._watches.reuse(extent, end)
        extent.hi = end
        self.cached -= count
        self.evicted += count
        if run.lo == end:
            self._list.remove(run)
            extent.runs.remove(run)
            if extent.lo == end:
                segment = extent.segment
                segment.extents.remove(extent)
                if not segment.extents and not segment.live:
                    self._tree.forget(segment)

    def _split(self, extent: Extent, at: int) -> Extent:
        """Cut an extent in two at block ``at``; returns the upper part."""
        upper = extent.cut(at, self._list)
        if extent.watches:
            self._watches.cut(extent, upper)
        return upper

    # -- inspection ------------------------------------------------------------------------------

    def free_list(self) -> list[tuple[Segment | None, int]]:
        """The free list, head first: ``(segment, block index)``, or ``(None, 0)`` if empty."""
        blocks: list[tuple[Segment | None, int]] = []
        for run in self._list:
            if run.extent is None:
                blocks.extend([(None, 0)] * (run.hi - run.lo))
            else:
                blocks.extend((run.extent.segment, i) for i in range(run.hi - 1, run.lo - 1, -1))
        return blocks

    def check(self, holdings: list[Holding]) -> None:
        """Verify block conservation.

        Raises:
            AssertionError: free + held differs from the capacity; the message has all terms.
        """
        free = empty = 0
        extents: dict[int, Extent] = {}
        for run in self._list:
            free += run.hi - run.lo
            if run.extent is None:
                empty += run.hi - run.lo
            else:
                extents[id(run.extent)] = run.extent
        private = sum(h.private for h in holdings)
        for holding in holdings:
            for extent, _ in holding.spans:
                extents[id(extent)] = extent
        held = sum(e.held - e.lo for e in extents.values())
        equation = f"free {free} (counted {self.free}) + held {held} + private {private} = capacity {self.capacity}"
        assert free == self.free, equation
        assert free + held + private == self.capacity, equation
        assert free - empty == self.cached, f"cached {self.cached}, listed {free - empty}"
        for extent in extents.values():
            assert extent.held == max(extent.depths, default=extent.lo), f"{extent!r} {extent.depths}"
