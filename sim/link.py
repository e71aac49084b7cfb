"""The GPU-CPU link: two independent directions, each shared fairly by the transfers in it.

A transfer's work is the time it would take alone: bytes over bandwidth, plus a fixed cost for each
contiguous run. ``n`` transfers in one direction each progress at ``1 / n`` of that speed
(processor sharing), so the bytes moved never exceed bandwidth times time. Completion is computed
with integers, rounded up to a picosecond.

Somebody waits for an *urgent* transfer, and it gets an event of its own. The others are only looked
at when the engine plans a step anyway (:meth:`Link.collect`), which changes no completion time.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal

from tokencake.sim.clock import Alarm, Clock, Priority

if TYPE_CHECKING:
    from tokencake.sim.config import LinkConfig

DirectionName = Literal["d2h", "h2d"]

_SCALE: Final = 1 << 20


class Transfer:
    """Blocks on their way between the tiers.

    Attributes:
        direction: ``d2h`` or ``h2d``.
        size_bytes: Bytes to move.
        runs: Contiguous runs the bytes come in.
        urgent: Whether its end is an event.
        promised: Somebody counts on its end as foreseen; what starts later waits behind it.
        start_ps: When it entered the link; -1 before.
        finish_ps: When it left; -1 before.
        done: Called when it has finished.
    """

    __slots__ = (
        "cause",
        "direction",
        "done",
        "finish_ps",
        "goal",
        "promised",
        "runs",
        "size_bytes",
        "start_ps",
        "state",
        "subject",
        "urgent",
    )

    def __init__(
        self,
        direction: DirectionName,
        size_bytes: int,
        runs: int,
        cause: str,
        subject: object,
        done: Callable[[Transfer], None],
        *,
        urgent: bool = True,
    ):
        self.urgent = urgent
        self.direction: DirectionName = direction
        self.size_bytes = size_bytes
        self.runs = runs
        self.cause = cause
        self.subject = subject
        self.done = done
        self.start_ps = self.finish_ps = -1
        self.goal = 0
        self.promised = False
        self.state = "waiting"


class _Direction:
    """One direction of the link.

    Attributes:
        end_ps: When the first of its transfers ends; infinity if it has none.
    """

    __slots__ = (
        "alarm",
        "behind",
        "busy_ps",
        "end_ps",
        "moved_bytes",
        "numerator",
        "served",
        "since_ps",
        "transfers",
        "urgent",
    )

    def __init__(self, gb_s: float):
        # Picoseconds per byte are 1000 / (GB/s); kept as a scaled integer.
        self.numerator = round(1000 / gb_s * _SCALE)
        self.transfers: list[tuple[int, int, Transfer]] = []
        self.behind: deque[list[Transfer]] = deque()
        self.served = 0
        self.since_ps = 0
        self.alarm: Alarm | None = None
        self.urgent = 0
        self.moved_bytes = 0
        self.busy_ps = 0
        self.end_ps: float = math.inf

    def advance(self, now_ps: int) -> None:
        count = len(self.transfers)
        if count:
            passed = now_ps - self.since_ps
            self.served += passed * _SCALE // count
            self.busy_ps += passed
        self.since_ps = now_ps

    def look(self) -> None:
        """Find out when the first of its transfers ends, after they or their progress have changed."""
        transfers = self.transfers
        if not transfers:
            self.end_ps = math.inf
            return
        left = -(-(transfers[0][0] - self.served) * len(transfers) // _SCALE)
        self.end_ps = self.since_ps + left if left > 0 else self.since_ps


class Link:
    """Both directions of the link of one engine.

    Args:
        clock: Time of the engine.
        config: Bandwidths and fixed costs.
    """

    def __init__(self, clock: Clock, config: LinkConfig):
        self._clock = clock
        self._free = config.free
        self._per_run_ps = round(config.per_run_us * 1_000_000)
        self._ways = {"d2h": _Direction(config.d2h_gb_s), "h2d": _Direction(config.h2d_gb_s)}
        self._d2h, self._h2d = self._ways["d2h"], self._ways["h2d"]
        self._count = 0

    def alone_ps(self, direction: str, size_bytes: int, runs: int) -> int:
        """Time of a transfer that has its direction to itself, in picoseconds."""
        if self._free:
            return 0
        work = -(-size_bytes * self._ways[direction].numerator // _SCALE)
        return work + runs * self._per_run_ps

    def start(self, transfer: Transfer) -> None:
        """Put a transfer on the link; ``transfer.done`` is called when it has finished."""
        way = self._ways[transfer.direction]
        now = self._clock.now_ps
        if way.end_ps <= now:
            self._settle(way, now)
        last = way.behind[-1] if way.behind else [moving for _, _, moving in way.transfers]
        if any(other.promised for other in last):
            way.behind.append([])
        if way.behind:
            way.behind[-1].append(transfer)
            transfer.state = "queued"
            return
        way.advance(now)
        self._enter(way, transfer, now)
        if way.urgent:
            self._rearm(way)

    def _enter(self, way: _Direction, transfer: Transfer, now: int) -> None:
        transfer.start_ps = now
        transfer.state = "moving"
        transfer.goal = way.served + self._work_ps(transfer) * _SCALE
        self._count += 1
        heapq.heappush(way.transfers, (transfer.goal, self._count, transfer))
        way.look()
        way.urgent += transfer.urgent

    def _work_ps(self, transfer: Transfer) -> int:
        return self.alone_ps(transfer.direction, transfer.size_bytes, transfer.runs)

    def collect(self) -> None:
        """Report the transfers that have ended by now."""
        now = self._clock.now_ps
        if self._d2h.end_ps <= now:
            self._settle(self._d2h, now)
        if self._h2d.end_ps <= now:
            self._settle(self._h2d, now)

    def next_ps(self) -> float:
        """When the next transfer ends, in picoseconds; infinity if nothing moves."""
        return min(self._d2h.end_ps, self._h2d.end_ps)

    def cancel(self, transfer: Transfer) -> None:
        """Take a transfer off the link; its bytes so far are not counted as moved."""
        way = self._ways[transfer.direction]
        self._settle(way, self._clock.now_ps)
        way.advance(self._clock.now_ps)
        if transfer.state == "queued":
            transfer.start_ps = self._clock.now_ps
            for batch in way.behind:
                if transfer in batch:
                    batch.remove(transfer)
            way.behind = deque(batch for batch in way.behind if batch)
        else:
            way.transfers = [t for t in way.transfers if t[2] is not transfer]
            heapq.heapify(way.transfers)
            way.urgent -= transfer.urgent
            way.look()
            self._next_batch(way, self._clock.now_ps)
        transfer.state = "cancelled"
        transfer.finish_ps = self._clock.now_ps
        self._rearm(way)

    def promise_ps(self, transfer: Transfer) -> int:
        """When a transfer ends; what starts from now on waits until all that is under way now has ended.

        So the answer holds, as it does in vLLM, whose worker runs the transfers of a direction in order.
        """
        way = self._ways[transfer.direction]
        transfer.promised = True
        served, at = way.served, way.since_ps
        works = [goal for goal, _, _ in sorted(way.transfers)]
        batch = [moving for _, _, moving in sorted(way.transfers)]
        behind = iter(way.behind)
        while True:
            for position, (goal, other) in enumerate(zip(works, batch, strict=True)):
                at += max(0, -(-(goal - served) * (len(works) - position) // _SCALE))
                served = max(served, goal)
                if other is transfer:
                    return at
            batch = sorted(next(behind), key=self._work_ps)
            works = [served + self._work_ps(other) * _SCALE for other in batch]

    def queued_bytes(self, direction: str) -> int:
        """Bytes of the transfers that are on the link in one direction."""
        way = self._ways[direction]
        moving = sum(t.size_bytes for _, _, t in way.transfers)
        return moving + sum(t.size_bytes for batch in way.behind for t in batch)

    def moved_bytes(self, direction: str) -> int:
        """Bytes of all finished transfers in one direction."""
        return self._ways[direction].moved_bytes

    def busy_ps(self, direction: str) -> int:
        """Time in which a direction had a transfer, in picoseconds."""
        way = self._ways[direction]
        self._settle(way, self._clock.now_ps)
        way.advance(self._clock.now_ps)
        way.look()
        return way.busy_ps

    @property
    def idle(self) -> bool:
        """Whether nothing moves."""
        return not any(way.transfers for way in self._ways.values())

    def _rearm(self, way: _Direction) -> None:
        if way.alarm is not None:
            way.alarm.cancel()
            way.alarm = None
        if way.urgent:
            way.alarm = self._clock.at(int(way.end_ps), Priority.TRANSFER, self._ring, way)

    def _ring(self, way: _Direction) -> None:
        way.alarm = None
        self._settle(way, self._clock.now_ps)

    def _next_batch(self, way: _Direction, now: int) -> None:
        """Start what waits behind, once nothing is under way."""
        if not way.transfers and way.behind:
            way.since_ps = now
            for transfer in way.behind.popleft():
                self._enter(way, transfer, now)

    def _settle(self, way: _Direction, now: int) -> None:
        """End, one after the other, the transfers of a direction that are over by ``now``."""
        ended: list[Transfer] = []
        while way.end_ps <= now:
            end = int(way.end_ps)
            way.advance(end)
            while way.transfers and way.transfers[0][0] <= way.served:
                transfer = heapq.heappop(way.transfers)[2]
                transfer.state = "done"
                transfer.finish_ps = end
                way.urgent -= transfer.urgent
                way.moved_bytes += transfer.size_bytes
                ended.append(transfer)
            way.look()
            self._next_batch(way, end)
        if ended:
            if way.urgent or way.alarm is not None:
                self._rearm(way)
            for transfer in ended:
                transfer.done(transfer)
