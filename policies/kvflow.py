"""KVFlow (NeurIPS'25): what is needed latest goes first, what is needed next is fetched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from tokencake.policies.api import (
    Action,
    CallView,
    ChainView,
    Event,
    EventKind,
    Info,
    Policy,
    Prefetch,
    Trigger,
    Unpin,
    View,
)
from tokencake.policies.graph import Frontier
from tokencake.policies.returns import Returns

_ENDED, _UNKNOWN = float("-inf"), -1e300
_EVENTS = (EventKind.CALL_QUEUED, EventKind.CALL_FINISHED, EventKind.TOOL_FINISHED)


class KVFlow(Policy):
    """KVFlow: evicts by steps to execution in the declared graph, and prefetches what comes next.

    **Steps to execution** of a call (KVFlow, NeurIPS'25, and its authors' code): 0 once it has arrived,
    else ``1 + max`` over the calls that it waits for; tools are no steps. A chain has the steps of the
    first call that continues it.

    **Eviction** from the GPU: chains of programs that have ended, then those that nothing continues, then the
    largest steps; within equals
    the least recently used, each chain from its end (dynamic suffixes before the prompts that they hang
    on), and a shared head after all chains that go through it, which is the minimum over the children in the
    paper's tree. **Prefetch**: when a program moves on, its chains with at most ``lookahead`` steps
    that are in the CPU tier only are copied back, at most ``concurrency`` at a time, and not held
    (holding is off in the authors' code). A call whose blocks are being loaded is passed over by
    the engine. **Store**: write-through, prompts as they are computed and answers when they end.

    Assumed:
        The number of concurrent prefetches. A prefetch starts only if that many blocks are free.

    Not expressed:
        A value for a part of a chain: an agent's fixed prompt is protected while a chain that hangs on it
        is awaited, not when only a future program of the same agent would use it. OR joins: traces
        have AND joins only. Locks on single nodes during a load: vLLM passes over the whole call.

    Args:
        lookahead: Most steps to execution for which a chain is fetched.
        concurrency: Most prefetches under way.
    """

    info = Info.NONE
    together: ClassVar = {"evict_order": ("place", "the steps are counted where the stalls are seen")}
    store_when = ("prompt", "finished")

    def __init__(self, *, lookahead: int = 2, concurrency: int = 4) -> None:
        for name, value in (("lookahead", lookahead), ("concurrency", concurrency)):
            if value < 0:
                raise ValueError(f"{name} must be >= 0, got {value}")
        self.lookahead = lookahead
        self.concurrency = concurrency
        self._frontier = Frontier()
        self._stalls = Returns()
        self._keys: dict[str, float] = {}
        self._moved: dict[str, None] = {}
        self._fetching: dict[str, None] = {}
        self._fetched: dict[str, None] = {}

    def observe(self, event: Event, view: View) -> None:
        """Follow the graphs and the prefetches."""
        self._frontier.observe(event)
        self._stalls.observe(event)
        if event.kind in _EVENTS:
            self._moved[event.program] = None
        elif event.kind is EventKind.TRANSFER_DONE and self._fetching.pop(event.call, 0) is None:
            self._fetched[event.call] = None
        elif event.kind is EventKind.ACTION_REFUSED:
            self._fetching.pop(event.call, None)
        elif event.kind is EventKind.PROGRAM_FINISHED:
            for call in [c for c in self._keys if c not in self._stalls]:
                del self._keys[call]

    def place(self, view: View, trigger: Trigger, subject: ChainView | None) -> Sequence[Action]:
        """Rank the chains of programs that moved on, and fetch what comes next."""
        if trigger is Trigger.STALL and subject is not None and subject.next_calls:
            self._stalls.add(subject)
        if trigger is not Trigger.STEP:
            return ()
        actions: list[Action] = [Unpin(call) for call in self._fetched if call in self._stalls]
        self._fetched.clear()
        near: list[tuple[float, ChainView]] = []
        for program in self._moved:
            for chain in self._stalls.of_program(program):
                steps = self._rank(chain)
                if steps <= self.lookahead and chain.call.id not in self._fetching:
                    near.append((steps, chain))
        self._moved.clear()
        if view.cpu.capacity:
            actions += self._fetch(view, sorted(near, key=lambda item: item[0]))
        return actions

    def _rank(self, chain: ChainView) -> float:
        program = chain.call.program
        steps = min(self._frontier.steps(program, node) for node in self._stalls.awaited(chain.call.id))
        self._keys[chain.call.id] = -steps
        return steps

    def _fetch(self, view: View, near: list[tuple[float, ChainView]]) -> list[Action]:
        free = view.gpu.free
        actions: list[Action] = []
        for _, chain in near:
            if len(self._fetching) >= self.concurrency:
                self._moved[chain.call.program.id] = None  # next time
                continue
            on_gpu, in_cpu = chain.gpu_blocks, chain.cpu_blocks
            if in_cpu <= on_gpu or in_cpu > free:
                continue
            free -= in_cpu
            self._fetching[chain.call.id] = None
            actions.append(Prefetch(call=chain.call.id))
        return actions

    def evict_order(self, view: View, tier: str) -> Callable[[CallView], object] | None:
        """On the GPU: what nothing continues, then the largest steps to execution."""
        return self._key if tier == "gpu" else None

    def _key(self, call: CallView) -> float:
        if call.id in self._stalls:
            return self._keys.get(call.id, _UNKNOWN)
        return _UNKNOWN if self._frontier.under_way(call.program.id) else _ENDED

    def store(self, view: View, chain: ChainView, cause: str) -> int:
        """Everything."""
        return chain.blocks
