"""The free list as runs of blocks: what is reused next, and what a policy would rather give up."""

from __future__ import annotations

from collections.abc import Iterator

from tokencake.sim.extents import EvictKey, Extent, FreeRun


class FreeList:
    """Free blocks in the order in which they are reused, as a linked list of runs.

    Args:
        blocks: Empty blocks to begin with.
        empty_first: Blocks without content are reused first (vLLM 0.32) or last (0.22).

    Attributes:
        end: Closes the list to a ring: the last blocks of ``end.next`` are reused next, those of ``end.prev`` last.
    """

    def __init__(self, blocks: int, *, empty_first: bool):
        self._empty_first = empty_first
        self.end = FreeRun(None, 0, 0)
        self.append(FreeRun(None, 0, blocks))

    def __iter__(self) -> Iterator[FreeRun]:
        run = self.end.next
        while run is not self.end:
            yield run
            run = run.next

    def append(self, run: FreeRun) -> None:
        """Add a run that is reused last."""
        self.insert(run, after=self.end.prev)

    def insert(self, run: FreeRun, after: FreeRun | None) -> None:
        """Add a run behind another one; behind none, it is reused next."""
        before = self.end if after is None else after
        run.prev, run.next = before, before.next
        before.next.prev = run
        before.next = run

    def remove(self, run: FreeRun) -> None:
        """Take a run out."""
        run.prev.next = run.next
        run.next.prev = run.prev

    def add_empty(self, count: int) -> None:
        """Add blocks without content."""
        at = self.end.next if self._empty_first else self.end.prev
        if at is not self.end and at.extent is None:
            at.hi += count
        else:
            self.insert(FreeRun(None, 0, count), after=None if self._empty_first else self.end.prev)

    def choose(self, key: EvictKey) -> tuple[FreeRun, int]:
        """The run that a policy gives up first, and how many blocks before it is asked again.

        Empty blocks always go before cached ones, and a cached block after the free ones that follow it.
        """
        best: FreeRun | None = None
        best_key: object = None
        best_floor = 0
        for run in self:
            if run.extent is None:
                return run, run.hi - run.lo
            value = key(run.owner)
            if best is None or value < best_key:  # type: ignore[operator]
                floor = _leaf_floor(run.extent, run)
                if floor < run.hi:
                    best, best_key, best_floor = run, value, floor
        assert best is not None
        return best, best.hi - best_floor


def _leaf_floor(extent: Extent, run: FreeRun) -> int:
    """Down to which block a free run may be evicted before other free blocks must be looked at again.

    A block goes after the free blocks that follow it; at ``run.hi`` nothing of the run may go now. The
    top of another copy counts, too: from there on, the two compete.
    """
    floor = run.lo
    for other in extent.segment.extents:
        if other.held <= run.hi < other.hi:
            return run.hi
        if other is not extent and floor < other.hi <= run.hi and other.held < other.hi:
            floor = min(other.hi, run.hi - 1)
    for depth, children in extent.segment.branches.items():
        if floor < depth <= run.hi and any(e.lo == e.held == depth for c in children.values() for e in c.extents):
            floor = depth
    return floor
