"""KV of a finished call that something may still come back for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokencake.sim.call_view import ChainView
from tokencake.sim.calls import Call
from tokencake.sim.extents import Holding
from tokencake.sim.parts import Parts
from tokencake.sim.transfer import Transfer

if TYPE_CHECKING:
    from tokencake.sim.host import Host
    from tokencake.sim.store_job import StoreJob


class Stall:
    """KV of a finished call between its end and the admission of the calls that follow it.

    Attributes:
        call: The finished call.
        since_ps: When it finished.
        awaited: Nodes of the following calls not admitted yet.
        pin: GPU blocks kept (KEEP, or a PREFETCH and its target blocks).
        until_ps: When the pin ends by itself; None: with the return.
        held: GPU blocks set aside for a coming PREFETCH.
        source: GPU blocks that an OFFLOAD reads.
        transfer: The OFFLOAD or PREFETCH under way.
        fence: What an OFFLOAD that holds nothing reads; a step that overwrites it waits.
        parts: CPU blocks of the transfer.
    """

    __slots__ = (
        "awaited",
        "call",
        "fence",
        "held",
        "parts",
        "pin",
        "since_ps",
        "source",
        "transfer",
        "until_ps",
        "view",
    )

    def __init__(self, host: Host, call: Call, since_ps: int, awaited: dict[str, None]):
        self.call = call
        self.since_ps = since_ps
        self.awaited = awaited
        chain = call.holding.chain
        self.pin = Holding(chain, call)
        self.held = Holding(chain, call)
        self.source = Holding(chain, call)
        self.until_ps: int | None = None
        self.transfer: Transfer | None = None
        self.fence: StoreJob | None = None
        self.parts: Parts = []
        self.view = ChainView(host, call, self)

    @property
    def pinned_blocks(self) -> int:
        """GPU blocks that this stall holds in any way."""
        return self.pin.blocks + self.held.blocks + self.source.blocks

    @property
    def idle(self) -> bool:
        """Whether it holds nothing and moves nothing."""
        return self.transfer is None and not self.pinned_blocks
