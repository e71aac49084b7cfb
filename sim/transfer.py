"""Blocks on their way between the tiers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

DirectionName = Literal["d2h", "h2d"]


class Transfer:
    """One copy between the tiers.

    Attributes:
        direction: ``d2h`` or ``h2d``.
        size_bytes: Bytes to move.
        runs: Contiguous runs the bytes come in.
        cause: Why, for the result row.
        subject: What it is about; known to who made it.
        done: Called when it has finished.
        urgent: Whether its end is an event.
        promised: Somebody counts on its end as foreseen; what starts later waits behind it.
        start_ps: When it entered the link; -1 before.
        finish_ps: When it left; -1 before.
        state: ``waiting``, ``queued`` (on the link, behind others), ``moving``, ``done`` or ``cancelled``.
    """

    __slots__ = (
        "cause",
        "direction",
        "done",
        "finish_ps",
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
        self.direction: DirectionName = direction
        self.size_bytes = size_bytes
        self.runs = runs
        self.cause = cause
        self.subject = subject
        self.done = done
        self.urgent = urgent
        self.promised = False
        self.start_ps = self.finish_ps = -1
        self.state = "waiting"
