"""The GPU-CPU link: two independent directions, each shared fairly by the transfers in it.

A transfer's work is the time it would take alone: bytes over bandwidth, plus a fixed cost for each
contiguous run. ``n`` transfers in one direction each progress at ``1 / n`` of that speed
(processor sharing), so the bytes moved never exceed bandwidth times time. Completion is computed
with integers, rounded up to a picosecond.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal

import simpy

from tokencake.sim.clock import Alarm, Priority

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
        start_ps: When it entered the link; -1 before.
        finish_ps: When it left; -1 before.
        done: Called when it has finished.
    """

    __slots__ = ("cause", "direction", "done", "finish_ps", "goal", "runs", "size_bytes", "start_ps", "state", "subject")

    def __init__(
        self,
        direction: DirectionName,
        size_bytes: int,
        runs: int,
        cause: str,
        subject: object,
        done: Callable[[Transfer], None],
    ):
        self.direction: DirectionName = direction
        self.size_bytes = size_bytes
        self.runs = runs
        self.cause = cause
        self.subject = subject
        self.done = done
        self.start_ps = self.finish_ps = -1
        self.goal = 0
        self.state = "waiting"


class _Direction:
    __slots__ = ("alarm", "busy_ps", "moved_bytes", "numerator", "served", "since_ps", "transfers")

    def __init__(self, gb_s: float):
        # Picoseconds per byte are 1000 / (GB/s); kept as a scaled integer.
        self.numerator = round(1000 / gb_s * _SCALE)
        self.transfers: list[tuple[int, int, Transfer]] = []
        self.served = 0
        self.since_ps = 0
        self.alarm: Alarm | None = None
        self.moved_bytes = 0
        self.busy_ps = 0

    def advance(self, now_ps: int) -> None:
        count = len(self.transfers)
        if count:
            passed = now_ps - self.since_ps
            self.served += passed * _SCALE // count
            self.busy_ps += passed
        self.since_ps = now_ps


class Link:
    """Both directions of the link of one engine.

    Args:
        env: Clock.
        config: Bandwidths and fixed costs.
    """

    def __init__(self, env: simpy.Environment, config: LinkConfig):
        self._env = env
        self._free = config.free
        self._per_run_ps = round(config.per_run_us * 1_000_000)
        self._ways = {"d2h": _Direction(config.d2h_gb_s), "h2d": _Direction(config.h2d_gb_s)}
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
        now = self._now()
        way.advance(now)
        transfer.start_ps = now
        transfer.state = "moving"
        work = self.alone_ps(transfer.direction, transfer.size_bytes, transfer.runs)
        transfer.goal = way.served + work * _SCALE
        self._count += 1
        heapq.heappush(way.transfers, (transfer.goal, self._count, transfer))
        self._rearm(way)

    def cancel(self, transfer: Transfer) -> None:
        """Take a moving transfer off the link; its bytes so far are not counted as moved."""
        way = self._ways[transfer.direction]
        way.advance(self._now())
        way.transfers = [t for t in way.transfers if t[2] is not transfer]
        heapq.heapify(way.transfers)
        transfer.state = "cancelled"
        transfer.finish_ps = self._now()
        self._rearm(way)

    def eta_ps(self, transfer: Transfer) -> int:
        """When a moving transfer ends if no other one starts."""
        way = self._ways[transfer.direction]
        served, at = way.served, way.since_ps
        ordered = sorted(way.transfers)
        for position, (goal, _, other) in enumerate(ordered):
            left = len(ordered) - position
            at += max(0, -(-(goal - served) * left // _SCALE))
            served = max(served, goal)
            if other is transfer:
                return at
        raise ValueError("the transfer is not on the link")

    def queued_bytes(self, direction: str) -> int:
        """Bytes of the transfers that are on the link in one direction."""
        return sum(t.size_bytes for _, _, t in self._ways[direction].transfers)

    def moved_bytes(self, direction: str) -> int:
        """Bytes of all finished transfers in one direction."""
        return self._ways[direction].moved_bytes

    def busy_ps(self, direction: str) -> int:
        """Time in which a direction had a transfer, in picoseconds."""
        way = self._ways[direction]
        way.advance(self._now())
        return way.busy_ps

    @property
    def idle(self) -> bool:
        """Whether nothing moves."""
        return not any(way.transfers for way in self._ways.values())

    def _now(self) -> int:
        return int(self._env.now)

    def _rearm(self, way: _Direction) -> None:
        if way.alarm is not None:
            way.alarm.cancel()
            way.alarm = None
        if way.transfers:
            left = way.transfers[0][0] - way.served
            delay = max(0, -(-left * len(way.transfers) // _SCALE))
            way.alarm = Alarm(self._env, delay, Priority.TRANSFER, lambda: self._finish(way))

    def _finish(self, way: _Direction) -> None:
        now = self._now()
        way.advance(now)
        way.alarm = None
        ended: list[Transfer] = []
        while way.transfers and way.transfers[0][0] <= way.served:
            ended.append(heapq.heappop(way.transfers)[2])
        for transfer in ended:
            transfer.state = "done"
            transfer.finish_ps = now
            way.moved_bytes += transfer.size_bytes
        self._rearm(way)
        for transfer in ended:
            transfer.done(transfer)
