"""One direction of the link, shared fairly by the transfers in it (processor sharing).

A transfer's work is the time it would take alone. ``n`` transfers each progress at ``1 / n`` of that
speed, so all that is kept is how much of its work each transfer that never left has been *served*, and
for each transfer the service at which it ends. Completion is computed with integers, rounded up to a
picosecond.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING, Final

from tokencake.sim.config import NEVER

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokencake.sim.clock import Alarm
    from tokencake.sim.transfer import Transfer

_SCALE: Final = 1 << 20
"""Service is counted in this fraction of a picosecond."""


class Direction:
    """Transfers in one direction.

    Args:
        ps_per_byte: Time of a byte, in picoseconds.
        ps_per_run: Fixed cost of a contiguous run, in picoseconds.

    Attributes:
        alarm: Rings when the first of its transfers ends, if one is urgent, be it one that waits behind.
        behind: Batches of transfers that wait until all before them have ended.
        end_ps: When the first of its transfers ends; `NEVER` if it has none.
        moved_bytes: Bytes of all transfers that have ended.
        urgent: Number of urgent transfers, those behind included.
    """

    __slots__ = (
        "_busy_ps",
        "_moving",
        "_order",
        "_per_byte",
        "_per_run_ps",
        "_served",
        "_since_ps",
        "alarm",
        "behind",
        "end_ps",
        "moved_bytes",
        "urgent",
    )

    def __init__(self, ps_per_byte: float, ps_per_run: int):
        self._per_byte = round(ps_per_byte * _SCALE)
        self._per_run_ps = ps_per_run
        self._moving: list[tuple[int, int, Transfer]] = []
        self._order = self._served = self._since_ps = 0
        self.alarm: Alarm | None = None
        self.behind: deque[list[Transfer]] = deque()
        self._busy_ps = 0
        self.end_ps = NEVER
        self.moved_bytes = 0
        self.urgent = 0

    @property
    def moving(self) -> list[Transfer]:
        """Transfers under way."""
        return [transfer for _, _, transfer in self._moving]

    @property
    def is_idle(self) -> bool:
        """Whether nothing moves."""
        return not self._moving

    @property
    def is_promised(self) -> bool:
        """Whether somebody counts on the end of what is under way, so that nothing may slow it down."""
        return any(transfer.promised for transfer in (self.behind[-1] if self.behind else self.moving))

    def alone_ps(self, size_bytes: int, runs: int) -> int:
        """Time that bytes in some contiguous runs take alone."""
        return -(-size_bytes * self._per_byte // _SCALE) + runs * self._per_run_ps

    def enter(self, transfer: Transfer, work_ps: int, now_ps: int) -> None:
        """A transfer begins to move; all that ended by now has left."""
        transfer.start_ps = now_ps
        transfer.state = "moving"
        self._order += 1
        if self._moving:
            self._advance(now_ps)
            heapq.heappush(self._moving, (self._served + work_ps * _SCALE, self._order, transfer))
            self._look()
        else:  # alone, as most of them
            self._moving.append((work_ps * _SCALE, self._order, transfer))
            self._served = 0
            self._since_ps = now_ps
            self.end_ps = now_ps + work_ps

    def leave(self) -> list[Transfer]:
        """Take out the transfers that end at ``end_ps``."""
        end = self.end_ps
        moving = self._moving
        if len(moving) == 1:  # it ends whatever has been served
            self._busy_ps += end - self._since_ps
            self.end_ps = NEVER
            ended = [moving.pop()[2]]
        else:
            self._advance(end)
            ended = []
            while moving and moving[0][0] <= self._served:
                ended.append(heapq.heappop(moving)[2])
            self._look()
        for transfer in ended:
            transfer.state = "done"
            transfer.finish_ps = end
            self.moved_bytes += transfer.size_bytes
            self.urgent -= transfer.urgent
        return ended

    def busy_until(self, now_ps: int) -> int:
        """Time in which it has had a transfer, in picoseconds."""
        self._advance(now_ps)
        self._look()
        return self._busy_ps

    def remove(self, transfer: Transfer, now_ps: int) -> None:
        """Take out a transfer that has not ended."""
        self._advance(now_ps)
        self._moving = [entry for entry in self._moving if entry[2] is not transfer]
        heapq.heapify(self._moving)
        self.urgent -= transfer.urgent
        self._look()

    def _advance(self, now_ps: int) -> None:
        """Serve what moves until now."""
        count = len(self._moving)
        if count:
            passed = now_ps - self._since_ps
            self._served += passed * _SCALE // count
            self._busy_ps += passed
        self._since_ps = now_ps

    def _look(self) -> None:
        """Find out when the first of its transfers ends, after they or their progress have changed."""
        moving = self._moving
        if not moving:
            self.end_ps = NEVER
            return
        left = -(-(moving[0][0] - self._served) * len(moving) // _SCALE)
        self.end_ps = self._since_ps + left if left > 0 else self._since_ps

    def foresee(self, transfer: Transfer, work_ps: Callable[[Transfer], int]) -> int:
        """When a transfer ends if nothing is added to what moves, nor to the batches behind.

        Args:
            transfer: One that moves or waits.
            work_ps: Time that a waiting one takes alone.
        """
        served, at = self._served, self._since_ps
        ordered = sorted(self._moving)
        works = [goal for goal, _, _ in ordered]
        batch = [moving for _, _, moving in ordered]
        behind = iter(self.behind)
        while True:
            for position, (goal, other) in enumerate(zip(works, batch, strict=True)):
                at += max(0, -(-(goal - served) * (len(works) - position) // _SCALE))
                served = max(served, goal)
                if other is transfer:
                    return at
            batch = sorted(next(behind), key=work_ps)
            works = [served + work_ps(other) * _SCALE for other in batch]
