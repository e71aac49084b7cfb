"""When stalled chains are needed next, as far as a policy may know.

The one home of next uses: chains are added when they stall, and looked at again when something
happened in their program.
"""

from __future__ import annotations

from tokencake.policies.api import ChainView, Event, EventKind, ProgramView, View
from tokencake.policies.graph import Frontier
from tokencake.policies.returns import Returns

_EVENTS = (
    EventKind.CALL_QUEUED,
    EventKind.CALL_ADMITTED,
    EventKind.CALL_FINISHED,
    EventKind.TOOL_STARTED,
    EventKind.TOOL_FINISHED,
)


class NextUse:
    """Next uses of stalled chains, by the id of their call; pass it every event.

    Attributes:
        stalls: The chains.
    """

    def __init__(self) -> None:
        self.stalls = Returns()
        self._frontier = Frontier()
        self._moved: dict[str, None] = {}
        self._at_s: dict[str, float] = {}
        self._arrived: dict[str, float] = {}

    def __contains__(self, call: str) -> bool:
        return call in self.stalls

    def __len__(self) -> int:
        return len(self.stalls)

    def observe(self, event: Event) -> None:
        """Follow graphs and returns."""
        self._frontier.observe(event)
        self.stalls.observe(event)
        if event.kind is EventKind.CALL_QUEUED:
            self._arrived[event.call] = event.at
        elif event.kind is EventKind.CALL_ADMITTED:
            self._arrived.pop(event.call, None)
        if event.kind in _EVENTS:
            self._moved[event.program] = None
        elif event.kind is EventKind.PROGRAM_FINISHED:
            self._moved.pop(event.program, None)

    def under_way(self, program: str) -> bool:
        """Whether a program has called and has not ended."""
        return self._frontier.under_way(program)

    def add(self, chain: ChainView) -> None:
        """A chain stalls."""
        self.stalls.add(chain)

    def update(self, view: View) -> list[ChainView]:
        """Find the next uses in programs where something happened; returns their chains."""
        if not self._moved:
            return []
        running = len(view.running)
        held = (view.gpu.capacity - view.gpu.free) * view.block_size
        token_s = view.cost.step_time(max(1, running), held)
        updated: list[ChainView] = []
        for program in self._moved:
            for chain in self.stalls.of_program(program):
                call = chain.call
                self._at_s[call.id] = min(
                    self._arrival(view, call.program, node, token_s) for node in self.stalls.awaited(call.id)
                )
                updated.append(chain)
        self._moved.clear()
        for gone in [name for name in self._at_s if name not in self.stalls]:
            del self._at_s[gone]
        return updated

    def _arrival(self, view: View, program: ProgramView, node: str, token_s: float) -> float:
        """When a coming call arrives, or did: those that wait are served in this order."""
        arrived = self._arrived.get(f"{program.id}/{node}")
        return self._frontier.ready_at(view, program, node, token_s) if arrived is None else arrived

    def at_s(self, call: str) -> float | None:
        """When the first call that continues a chain arrives, or did, in seconds of the run; None without one."""
        return self._at_s.get(call) if call in self.stalls else None
