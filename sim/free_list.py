"""The free list as runs of blocks: what is reused next, and what a policy would rather give up."""

from __future__ import annotations

from tokencake.sim.extents import EvictKey, Extent, FreeRun
from tokencake.sim.ring import Ring


class FreeList(Ring[FreeRun]):
    """Free blocks in the order in which they are reused, as runs; the first one's last blocks are next.

    Args:
        blocks: Empty blocks to begin with.
        empty_first: Blocks without content are reused first (vLLM 0.32) or last (0.22).
    """

    def __init__(self, blocks: int, *, empty_first: bool):
        super().__init__(FreeRun(None, 0, 0))
        self._empty_first = empty_first
        self.append(FreeRun(None, 0, blocks))

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
