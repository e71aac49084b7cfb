"""A link whose copies take the times that an engine was measured to take for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tokencake.sim.link import Link

if TYPE_CHECKING:
    from tokencake.sim.clock import Clock
    from tokencake.sim.config import LinkConfig
    from tokencake.sim.transfer import Transfer


class RecordedCopy(NamedTuple):
    """One measured copy.

    Attributes:
        direction: ``d2h`` or ``h2d``.
        size_bytes: Bytes moved.
        runs: Contiguous runs that they came in.
        took_ps: Time that it took alone.
    """

    direction: str
    size_bytes: int
    runs: int
    took_ps: int


class RecordedLink(Link):
    """Gives the n-th transfer of a direction the time of the n-th recorded one.

    A transfer that is not like the recorded one, or comes after the last, takes the configured time, and is
    counted. What is asked about a transfer that has not begun is answered by the configuration, as it was
    while the engine ran.

    Args:
        clock: Time of the engine.
        config: Bandwidths and fixed costs.
        copies: What was measured, in the order in which transfers began.
    """

    def __init__(self, clock: Clock, config: LinkConfig, copies: Sequence[RecordedCopy]):
        super().__init__(clock, config)
        self._recorded: Mapping[str, deque[RecordedCopy]] = {"d2h": deque(), "h2d": deque()}
        for copy in copies:
            self._recorded[copy.direction].append(copy)
        self._other = 0

    def outside(self) -> Mapping[str, int]:
        """See :meth:`tokencake.sim.link.Link.outside`."""
        return {"copies_not_as_recorded": self._other}

    def _begin(self, transfer: Transfer) -> int:
        recorded = self._recorded[transfer.direction]
        copy = recorded.popleft() if recorded else None
        if copy is not None and (copy.size_bytes, copy.runs) == (transfer.size_bytes, transfer.runs):
            return copy.took_ps
        self._other += 1
        return super()._begin(transfer)
