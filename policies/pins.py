"""Which chains a policy keeps on the GPU, and for whose return.

The one home of pin bookkeeping: a policy adds what it asks the host to keep, passes every event on,
and so knows without looking at all stalled chains.
"""

from __future__ import annotations

from collections.abc import Iterator

from tokencake.policies.api import ChainView, Event, EventKind, Keep

_ENDS = (EventKind.PIN_EXPIRED, EventKind.PIN_LIFTED)


class Pins:
    """Pinned chains, and the calls that they wait for, by call id."""

    def __init__(self) -> None:
        self._awaited: dict[str, dict[str, None]] = {}
        self._by_return: dict[str, dict[str, None]] = {}
        self._by_program: dict[str, dict[str, None]] = {}
        self._program: dict[str, str] = {}

    def __contains__(self, call: str) -> bool:
        return call in self._awaited

    def __iter__(self) -> Iterator[str]:
        """Pinned calls, oldest pin first."""
        return iter(tuple(self._awaited))

    def awaits(self, call: str) -> bool:
        """Whether a chain is kept for this coming call."""
        return call in self._by_return

    def add(self, chain: ChainView) -> None:
        """A chain is kept until the calls that follow it have started."""
        call = chain.call
        if call.id in self._awaited:
            return
        program = call.program.id
        nodes = chain.next_calls
        self._awaited[call.id] = dict.fromkeys(f"{program}/{node}" for node in nodes)
        for coming in self._awaited[call.id]:
            self._by_return.setdefault(coming, {})[call.id] = None
        self._by_program.setdefault(program, {})[call.id] = None
        self._program[call.id] = program

    def remove(self, call: str) -> None:
        """A chain is kept no longer."""
        if call not in self._awaited:
            return
        for coming in self._awaited.pop(call):
            _discard(self._by_return, coming, call)
        _discard(self._by_program, self._program.pop(call), call)

    def observe(self, event: Event) -> None:
        """Follow what ends a pin: the last return, its time, the host, a refusal, the program's end."""
        kind = event.kind
        if kind is EventKind.CALL_ADMITTED:
            for call in self._by_return.pop(event.call, ()):
                awaited = self._awaited[call]
                del awaited[event.call]
                if not awaited:
                    self.remove(call)
        elif kind in _ENDS or (kind is EventKind.ACTION_REFUSED and isinstance(event.action, Keep)):
            self.remove(event.call)
        elif kind is EventKind.PROGRAM_FINISHED:
            for call in tuple(self._by_program.get(event.program, ())):
                self.remove(call)


def _discard(index: dict[str, dict[str, None]], key: str, call: str) -> None:
    calls = index.get(key)
    if calls is not None:
        calls.pop(call, None)
        if not calls:
            del index[key]
