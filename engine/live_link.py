"""The link of a live engine: its transfers are copies that are really carried out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tokencake.engine.live_clock import PS_PER_NS
from tokencake.sim.config import PS
from tokencake.sim.link import Link
from tokencake.sim.records import COPY_COLUMNS, Table
from tokencake.sim.transfer import Transfer

if TYPE_CHECKING:
    from tokencake.engine.copies import KvCopies, Staged
    from tokencake.sim.clock import Clock
    from tokencake.sim.config import LinkConfig

Where = tuple[list[int], list[int]]
"""Blocks of the engine, and slots of host memory."""


class LiveLink(Link):
    """Carries out copies, and lets them take the time that they take or that the configured link says.

    A copy to the CPU that is measured is carried out when its transfer begins to move; one to the GPU is made
    aside then, and reaches its blocks when it is over, because a store that is still to come may have to
    read them first. A copy that takes the configured time is carried out when that is over. Before a step
    that was made to wait for a store, that is carried out in any case. So a block that were reused or read
    too early would show in what the model says.

    Args:
        clock: Time of the engine.
        config: Bandwidths and fixed costs.
        copies: Moves the data.
        where: What a transfer is about.
        measured: Whether copies take the time that they take.
        cpu_time: Measure CPU time (wall time otherwise).

    Attributes:
        copied: Every copy whose time was measured, in the order in which they began.
    """

    def __init__(
        self,
        clock: Clock,
        config: LinkConfig,
        copies: KvCopies,
        where: Callable[[Transfer], Where],
        *,
        measured: bool,
        cpu_time: bool,
    ):
        super().__init__(clock, config)
        self._copies = copies
        self._where = where
        self._measured = measured
        self._time_ns = time.process_time_ns if cpu_time else time.perf_counter_ns
        self._due: dict[Transfer, Where] = {}
        self._took_ps: dict[Transfer, int] = {}
        self._staged: dict[Transfer, Staged] = {}
        self.copied = Table(COPY_COLUMNS)

    def start(self, transfer: Transfer) -> None:
        """See :meth:`tokencake.sim.link.Link.start`."""
        self._due[transfer] = self._where(transfer)
        done = transfer.done

        def arrived(transfer: Transfer) -> None:
            self._carry_out(transfer)
            self._took_ps.pop(transfer, None)
            done(transfer)

        transfer.done = arrived
        super().start(transfer)

    def before_step(self) -> None:
        """Carry out the copies that the coming step was made to wait for."""
        for transfer in [transfer for transfer in self._due if transfer.promised]:
            self._carry_out(transfer)

    def cancel(self, transfer: Transfer) -> None:
        """See :meth:`tokencake.sim.link.Link.cancel`."""
        super().cancel(transfer)
        for kept in (self._due, self._took_ps, self._staged):
            kept.pop(transfer, None)

    def _begin(self, transfer: Transfer) -> int:
        if self._measured and transfer.direction == "d2h":
            self._carry_out(transfer)
        elif self._measured:
            begin = self._time_ns()
            self._staged[transfer] = self._copies.stage(self._due[transfer][1])
            self._took_ps[transfer] = (self._time_ns() - begin) * PS_PER_NS
        work = super()._begin(transfer)
        if self._measured:
            self.copied.add(transfer.direction, transfer.size_bytes, transfer.runs, work / PS)
        return work

    def _work_ps(self, transfer: Transfer) -> int:
        if self._measured and transfer in self._took_ps:
            return self._took_ps[transfer]
        return super()._work_ps(transfer)

    def _carry_out(self, transfer: Transfer) -> None:
        """Copy what a transfer is about, once."""
        if transfer not in self._due:
            return
        blocks, slots = self._due.pop(transfer)
        begin = self._time_ns()
        if transfer.direction == "d2h":
            self._copies.store(blocks, slots)
            self._took_ps[transfer] = (self._time_ns() - begin) * PS_PER_NS
        else:
            self._copies.load(slots, blocks, self._staged.pop(transfer, None))
