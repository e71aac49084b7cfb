"""CachedAttention (ATC'24): a host cache of whole sessions that looks ahead at the queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from tokencake.policies.api import Action, CallView, ChainView, Event, EventKind, Info, Policy, Prefetch, Trigger, View
from tokencake.policies.returns import Returns

_UNSEEN = float("-inf")


class CachedAttention(Policy):
    """CachedAttention: all KV goes to host memory, and the waiting queue says what to fetch and what to spare.

    **Store** (CachedAttention, ATC'24, from abstract and notes): everything that was computed. **Prefetch**: chains
    of waiting calls, from the head of the queue, as far as free memory goes
    (``window = free memory / mean KV of a session`` in the paper). **Eviction in the host**: sessions that are
    not in the look-ahead window of the queue (``host memory / mean KV of a session``) first, least recently used;
    then those in the window, from its tail.

    Assumed:
        Where nothing is said about the GPU, it is stock vLLM's: KV of an ended turn may still be found there
        (the paper keeps none). A session is the chain that a waiting call continues.

    Not expressed:
        Loading and saving layer by layer, overlapped with computation; a disk below the host memory, and the
        prefetch from it; the time to live of an hour; truncated positions. A head that sessions share has the
        place of the one that stored it first.
    """

    info = Info.NONE
    store_when = ("prompt", "finished")
    together: ClassVar = {"evict_order": ("place", "the queue is looked at there")}

    def __init__(self) -> None:
        self._stalls = Returns()
        self._places: dict[str, int] = {}
        self._fetching: dict[str, None] = {}

    def observe(self, event: Event, view: View) -> None:
        """Follow chains and prefetches."""
        self._stalls.observe(event)
        if event.kind is EventKind.TRANSFER_DONE or event.kind is EventKind.ACTION_REFUSED:
            self._fetching.pop(event.call, None)

    def place(self, view: View, trigger: Trigger, subject: ChainView | None) -> Sequence[Action]:
        """Look along the queue, and fetch for its head."""
        if trigger is Trigger.STALL and subject is not None and subject.next_calls:
            self._stalls.add(subject)
        if trigger is not Trigger.STEP or not view.cpu.capacity:
            return ()
        self._places.clear()
        seen = blocks = 0
        free = view.gpu.free
        actions: list[Action] = []
        for place, call in enumerate(view.waiting):
            for chain in self._stalls.before(call.id):
                size = chain.blocks
                seen += 1
                blocks += size
                if place * blocks > view.cpu.capacity * seen:  # beyond the window
                    return actions
                name = chain.call.id
                self._places[name] = place
                if free >= size:
                    free -= size
                    if name not in self._fetching and chain.cpu_blocks > chain.gpu_blocks:
                        self._fetching[name] = None
                        actions.append(Prefetch(call=name))
        return actions

    def evict_order(self, view: View, tier: str) -> Callable[[CallView], object] | None:
        """In the CPU tier: what the window does not hold, then from its tail."""
        if tier == "gpu":
            return None
        return self._rank

    def _rank(self, call: CallView) -> float:
        place = self._places.get(call.id)
        return _UNSEEN if place is None else float(-place)

    def store(self, view: View, chain: ChainView, cause: str) -> int:
        """Everything."""
        return chain.blocks
