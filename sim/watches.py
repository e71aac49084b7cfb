"""Who reads GPU blocks that may be given to somebody else, so that a step which overwrites them waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tokencake.sim.extents import Extent, Holding

Range = tuple[Extent, int, int]


class Watches:
    """Jobs that read blocks of extents; each extent knows its own (``Extent.watches``).

    Attributes:
        on_reuse: Told job and blocks ``[lo, hi)`` when blocks that it watches are reused.
    """

    def __init__(self) -> None:
        self.on_reuse: Callable[[object, int, int], None] | None = None
        self._extents: dict[object, list[Extent]] = {}

    def add(self, ranges: Iterable[Range], lo: int, hi: int, job: object) -> None:
        """Let a job watch the blocks ``[lo, hi)`` among some ranges of extents."""
        for extent, start, end in ranges:
            first, last = max(lo, start), min(hi, end)
            if first < last:
                extent.watches.append((first, last, job))
                self._extents.setdefault(job, []).append(extent)

    def drop(self, job: object) -> None:
        """A job no longer cares."""
        for extent in self._extents.pop(job, ()):
            extent.watches = [watch for watch in extent.watches if watch[2] is not job]

    def of(self, holding: Holding) -> list[tuple[object, int, int]]:
        """Jobs that watch blocks of a holding, and which."""
        return [
            (job, first, min(last, depth))
            for extent, depth in holding.spans
            for first, last, job in extent.watches
            if first < depth
        ]

    def cut(self, extent: Extent, upper: Extent) -> None:
        """An extent was cut before ``upper``, which is watched as it was."""
        upper.watches = [watch for watch in extent.watches if watch[1] > upper.lo]
        for _, _, job in upper.watches:
            self._extents[job].append(upper)
        extent.watches = [watch for watch in extent.watches if watch[0] < upper.lo]

    def reuse(self, extent: Extent, end: int) -> None:
        """The blocks of an extent from ``end`` on are given to somebody else."""
        if self.on_reuse is not None:
            for lo, hi, job in extent.watches:
                if lo < extent.hi and hi > end:
                    self.on_reuse(job, max(lo, end), min(hi, extent.hi))
        extent.watches = [watch for watch in extent.watches if watch[0] < end]
