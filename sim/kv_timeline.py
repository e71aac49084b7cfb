"""Memory over time: few samples of integrals, so that what happens between two of them counts."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from tokencake.sim.config import PS
from tokencake.sim.records import KV_COLUMNS, Integral, Table

if TYPE_CHECKING:
    from tokencake.sim.host import Host

_SAMPLES = 2000


class KvTimeline:
    """Who had the memory, as means between samples.

    Args:
        host: Whose pools are looked at.
        used: Blocks in use, integrated over time.
        pinned: Those of them that are held although no call runs on them.

    Attributes:
        next_ps: When the next sample is due.
    """

    def __init__(self, host: Host, used: Integral, pinned: Integral):
        self._host = host
        self._used = used
        self._pinned = pinned
        self._rows: list[tuple[int, int, int, int, int, int]] = []
        self._every_ps = self.next_ps = 0

    def sample(self, now_ps: int) -> None:
        """Note the integrals; times must not fall."""
        rows = self._rows
        if rows and rows[-1][0] == now_ps:
            rows.pop()
        rows.append(self._row(now_ps))
        self.next_ps = now_ps + self._every_ps
        if len(rows) == _SAMPLES:  # keep every other sample from now on
            self._rows = rows[::2]
            span = self._rows[-1][0] - self._rows[0][0]
            self._every_ps = max(1, 2 * span // _SAMPLES)

    def table(self, end_ps: int) -> Table:
        """A row is the mean from its time to the next one's; the last one is the end."""
        table = Table(KV_COLUMNS)
        if not self._rows:
            return table
        capacity = self._host.pool.capacity
        last = self._row(max(end_ps, self._rows[-1][0]))
        for row, after in pairwise([*self._rows, last]):
            span = after[0] - row[0]
            if not span:
                continue
            used, pinned = after[1] - row[1], after[2] - row[2]
            running, held = _nearest(used - pinned, span), _nearest(used, span)
            # The rest is cached in the proportion of before and after.
            reusable = row[4] + after[4]
            cached = _nearest((capacity - held) * (row[3] + after[3]), reusable) if reusable else 0
            table.add(row[0] / PS, running, held - running, cached, capacity - held - cached, row[5])
        table.add(last[0] / PS, 0, 0, last[3], capacity - last[3], last[5])
        return table

    def _row(self, at_ps: int) -> tuple[int, int, int, int, int, int]:
        pool = self._host.pool
        cached, reusable = pool.cached, pool.free
        return at_ps, self._used.upto(at_ps), self._pinned.upto(at_ps), cached, reusable, self._host.cpu.cached


def _nearest(number: int, by: int) -> int:
    """Quotient of integers, to nearest."""
    return (2 * number + by) // (2 * by)
