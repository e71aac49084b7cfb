"""Chains of finished calls, until the calls that follow them have started.

The one home of this bookkeeping: a policy adds chains (all stalled ones, or those that it keeps),
passes every event on, and so knows what is awaited without looking at every stalled chain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tokencake.policies.api import CallView, ChainView, Event, EventKind, Keep, Unpin, View


class Returns:
    """Chains by the id of their call, and the calls that they wait for."""

    def __init__(self) -> None:
        self._chains: dict[str, ChainView] = {}
        self._awaited: dict[str, dict[str, None]] = {}
        self._by_return: dict[str, dict[str, None]] = {}
        self._by_program: dict[str, dict[str, None]] = {}

    def __contains__(self, call: str) -> bool:
        return call in self._chains

    def __len__(self) -> int:
        return len(self._chains)

    def __iter__(self) -> Iterator[str]:
        """Ids of the chains' calls, in the order in which they were added."""
        return iter(tuple(self._chains))

    def __getitem__(self, call: str) -> ChainView:
        return self._chains[call]

    def awaits(self, call: str) -> bool:
        """Whether a chain waits for this coming call."""
        return call in self._by_return

    def awaited(self, call: str) -> tuple[str, ...]:
        """Nodes of the coming calls that a chain still waits for."""
        start = len(self._chains[call].call.program.id) + 1
        return tuple(coming[start:] for coming in self._awaited[call])

    def before(self, call: str) -> tuple[ChainView, ...]:
        """Chains that wait for a coming call."""
        return tuple(self._chains[name] for name in self._by_return.get(call, ()))

    def of_program(self, program: str) -> tuple[ChainView, ...]:
        """Chains of a program."""
        return tuple(self._chains[name] for name in self._by_program.get(program, ()))

    def add(self, chain: ChainView) -> None:
        """Follow a chain until the calls that follow it have started."""
        call = chain.call
        if call.id in self._chains:
            return
        program = call.program.id
        self._chains[call.id] = chain
        self._awaited[call.id] = dict.fromkeys(f"{program}/{node}" for node in chain.next_calls)
        for coming in self._awaited[call.id]:
            self._by_return.setdefault(coming, {})[call.id] = None
        self._by_program.setdefault(program, {})[call.id] = None

    def remove(self, call: str) -> None:
        """Follow a chain no longer."""
        if call not in self._chains:
            return
        program = self._chains.pop(call).call.program.id
        for coming in self._awaited.pop(call):
            _discard(self._by_return, coming, call)
        _discard(self._by_program, program, call)

    def observe(self, event: Event) -> None:
        """A call starts, or a program ends."""
        if event.kind is EventKind.CALL_ADMITTED:
            for call in self._by_return.pop(event.call, ()):
                awaited = self._awaited[call]
                del awaited[event.call]
                if not awaited:
                    self.remove(call)
        elif event.kind is EventKind.PROGRAM_FINISHED:
            for call in tuple(self._by_program.get(event.program, ())):
                self.remove(call)


class Pins(Returns):
    """Chains that a policy keeps on the GPU: they also end with their pin."""

    def observe(self, event: Event) -> None:
        """A call starts, a program ends, a pin ends or was refused."""
        super().observe(event)
        refused = event.kind is EventKind.ACTION_REFUSED and isinstance(event.action, Keep)
        if refused or event.kind is EventKind.PIN_EXPIRED or event.kind is EventKind.PIN_LIFTED:
            self.remove(event.call)

    def make_room(self, view: View, call: CallView, chains: Iterable[ChainView]) -> list[Unpin]:
        """Give up pins, in the order of ``chains``, until a waiting call has room."""
        needed = -(-(call.prompt_tokens + call.output_tokens) // view.block_size)
        free = view.gpu.free
        actions: list[Unpin] = []
        for chain in chains:
            if free >= needed:
                break
            free += chain.pinned_blocks
            self.remove(chain.call.id)
            actions.append(Unpin(chain.call.id))
        return actions


def tools_ended(chain: ChainView) -> bool:
    """Whether all tools that directly follow a call have ended."""
    tools = chain.next_tools
    if len(tools) < 2:  # asked when a tool of the chain has ended
        return True
    finished = chain.call.program.finished
    return all(tool.node in finished for tool in tools)


def _discard(index: dict[str, dict[str, None]], key: str, call: str) -> None:
    calls = index.get(key)
    if calls is not None:
        calls.pop(call, None)
        if not calls:
            del index[key]
