"""The GPU-CPU link: two independent directions, each shared fairly by the transfers in it.

A transfer's work is the time it would take alone: bytes over bandwidth, plus a fixed cost for each
contiguous run. How the transfers of a direction share it is in :mod:`tokencake.sim.direction`.

Somebody waits for an *urgent* transfer, and it gets an event of its own. The others are only looked
at when the engine plans a step anyway (:meth:`Link.collect`), which changes no completion time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mypy_extensions import mypyc_attr

from tokencake.sim.clock import Clock, Priority
from tokencake.sim.direction import Direction
from tokencake.sim.transfer import Transfer

if TYPE_CHECKING:
    from tokencake.sim.config import LinkConfig


@mypyc_attr(allow_interpreted_subclasses=True)
class Link:
    """Both directions of the link of one engine.

    Args:
        clock: Time of the engine.
        config: Bandwidths and fixed costs.
    """

    def __init__(self, clock: Clock, config: LinkConfig):
        self._clock = clock
        if config.free:
            self._d2h, self._h2d = Direction(0, 0), Direction(0, 0)
        else:
            per_run_ps = round(config.per_run_us * 1_000_000)
            self._d2h, self._h2d = (Direction(1000 / gb_s, per_run_ps) for gb_s in (config.d2h_gb_s, config.h2d_gb_s))
        self._ways = {"d2h": self._d2h, "h2d": self._h2d}

    def alone_ps(self, direction: str, size_bytes: int, runs: int) -> int:
        """Time of a transfer that has its direction to itself, in picoseconds."""
        return self._ways[direction].alone_ps(size_bytes, runs)

    def start(self, transfer: Transfer) -> None:
        """Put a transfer on the link; ``transfer.done`` is called when it has finished."""
        way = self._ways[transfer.direction]
        now = self._clock.now_ps
        if way.end_ps <= now:
            self._settle(way, now)
        way.urgent += transfer.urgent
        if not way.is_idle and way.is_promised:
            way.behind.append([])
        if way.behind:
            way.behind[-1].append(transfer)
            transfer.state = "queued"
        else:
            way.enter(transfer, self._begin(transfer), now)
        if way.urgent:
            self._rearm(way)

    def collect(self) -> None:
        """Report the transfers that have ended by now."""
        now = self._clock.now_ps
        if self._d2h.end_ps <= now:
            self._settle(self._d2h, now)
        if self._h2d.end_ps <= now:
            self._settle(self._h2d, now)

    def next_ps(self) -> int:
        """When the next transfer ends, in picoseconds; `NEVER` if nothing moves."""
        return min(self._d2h.end_ps, self._h2d.end_ps)

    def cancel(self, transfer: Transfer) -> None:
        """Take a transfer off the link; its bytes so far are not counted as moved."""
        way, now = self._ways[transfer.direction], self._clock.now_ps
        self._settle(way, now)
        if transfer.state == "queued":
            way.urgent -= transfer.urgent
            transfer.start_ps = now
            for batch in way.behind:
                if transfer in batch:
                    batch.remove(transfer)
            way.behind = deque(batch for batch in way.behind if batch)
        else:
            way.remove(transfer, now)
            self._next_batch(way, now)
        transfer.state = "cancelled"
        transfer.finish_ps = now
        self._rearm(way)

    def promise_ps(self, transfer: Transfer) -> int:
        """When a transfer ends; what starts from now on waits until all that is under way now has ended.

        So the answer holds, as it does in vLLM, whose worker runs the transfers of a direction in order.
        """
        transfer.promised = True
        return self._ways[transfer.direction].foresee(transfer, self._work_ps)

    def queued_bytes(self, direction: str) -> int:
        """Bytes of the transfers that are on the link in one direction."""
        way = self._ways[direction]
        return sum(t.size_bytes for batch in (way.moving, *way.behind) for t in batch)

    def moved_bytes(self, direction: str) -> int:
        """Bytes of all finished transfers in one direction."""
        return self._ways[direction].moved_bytes

    def busy_ps(self, direction: str) -> int:
        """Time in which a direction had a transfer, in picoseconds."""
        way, now = self._ways[direction], self._clock.now_ps
        self._settle(way, now)
        return way.busy_until(now)

    @property
    def idle(self) -> bool:
        """Whether nothing moves."""
        return all(way.is_idle for way in self._ways.values())

    def outside(self) -> Mapping[str, int]:
        """Transfers whose time was not known as it should have been, by reason."""
        return {}

    def _begin(self, transfer: Transfer) -> int:
        """A transfer is about to move; returns the time that it takes alone."""
        return self._work_ps(transfer)

    def _work_ps(self, transfer: Transfer) -> int:
        return self._ways[transfer.direction].alone_ps(transfer.size_bytes, transfer.runs)

    def _rearm(self, way: Direction) -> None:
        if way.alarm is not None:
            way.alarm.cancel()
            way.alarm = None
        if way.urgent:
            way.alarm = self._clock.at(way.end_ps, Priority.TRANSFER, self._ring, way)

    def _ring(self, way: Direction) -> None:
        way.alarm = None
        self._settle(way, self._clock.now_ps)

    def _next_batch(self, way: Direction, now: int) -> None:
        """Start what waits behind, once nothing is under way."""
        if way.behind and way.is_idle:
            for transfer in way.behind.popleft():
                way.enter(transfer, self._begin(transfer), now)

    def _settle(self, way: Direction, now: int) -> None:
        """End, one after the other, the transfers of a direction that are over by ``now``."""
        ended: list[Transfer] = []
        while way.end_ps <= now:
            end = way.end_ps
            ended += way.leave()
            if way.behind:
                self._next_batch(way, end)
        if ended:
            if way.urgent or way.alarm is not None:
                self._rearm(way)
            for transfer in ended:
                transfer.done(transfer)
