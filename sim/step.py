"""One engine iteration, and what planning it reports to the rest of the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mypy_extensions import mypyc_attr

from tokencake.sim.calls import Call
from tokencake.sim.store_job import StoreJob


@mypyc_attr(allow_interpreted_subclasses=True)
class Step:
    """One engine iteration.

    Attributes:
        number: Counts scheduled steps from 0.
        tokens: Tokens computed.
        prefill: ``(new tokens, context)`` of each prefill chunk.
        firsts: Calls whose prompt completes, so that the step yields their next output.
        finishers: Calls that get their last output, in scheduled order.
        preempted: Whether planning it preempted a call, so that none was admitted.
        refused: Whether a call that the policy admitted did not fit.
        stale: Calls preempted while this step was in flight, and whether it yields an output.
        stores: What is copied to the CPU tier from its end on.
    """

    __slots__ = (
        "context",
        "decodes",
        "end_ps",
        "finishers",
        "firsts",
        "number",
        "preempted",
        "prefill",
        "refused",
        "stale",
        "stores",
        "tokens",
    )

    def __init__(self, number: int):
        self.number = number
        self.tokens = 0
        self.preempted = self.refused = False
        self.prefill: Sequence[tuple[int, int]] = ()  # most steps are decodes that end nothing: no lists
        self.decodes = self.context = self.end_ps = 0
        self.firsts: Sequence[Call] = ()
        self.finishers: Sequence[Call] = ()
        self.stale: Sequence[tuple[Call, bool]] = ()
        self.stores: Sequence[StoreJob] = ()


class Watcher(Protocol):
    """What the scheduler reports to the rest of the host."""

    def admitted(self, call: Call) -> None:
        """A waiting call has started, or has started to load."""

    def started(self, call: Call) -> None:
        """A call got its first blocks of this step, to compute or to load; or its load is done, and it runs."""

    def preempted(self, call: Call) -> None:
        """A running call lost its memory."""

    def computed(self, call: Call, cause: str) -> None:
        """A call gets more full blocks in the step being planned; ``cause`` as in ``Policy.store_when``."""

    def find_cpu(self, call: Call, gpu_hit: int) -> int | None:
        """Blocks after a GPU hit that can be loaded; None: ask again later."""

    def load(self, call: Call, gpu_hit: int, blocks: int) -> None:
        """Take GPU blocks for a CPU hit and start to fill them."""

    def refuse_admission(self, call: Call, reason: str) -> None:
        """A policy's answer could not be carried out."""

    def room(self, call: Call, blocks: int) -> bool:
        """Whether reservations leave a call the blocks that it needs."""
