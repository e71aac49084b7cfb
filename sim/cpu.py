"""The CPU tier: KV blocks in host memory, least recently used first out.

Follows vLLM 0.32 ``v1/kv_offload/cpu/manager.py`` with its ``lru`` policy: a block is ranked when
it is first stored and again when a call that used it ends, that call's tail below its head; blocks
that are being written or read stay.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from tokencake.sim.chains import Chain, ContentTree, Segment
from tokencake.sim.kv import EvictKey

Key = tuple[Segment, int]


class CpuTier:
    """Blocks of the CPU tier, by content.

    Attributes:
        stored: Blocks written so far.
        used: Of those, blocks that were read at least once before they were evicted.

    Args:
        blocks: Capacity.
        tree: Content of all chains.
    """

    def __init__(self, blocks: int, tree: ContentTree):
        self.capacity = blocks
        self.evicted = 0
        self.stored = self.used = 0
        self.evict_key: EvictKey | None = None
        self._tree = tree
        self._order: OrderedDict[Key, object] = OrderedDict()
        self._busy: dict[Key, int] = {}
        self._writing: dict[Key, None] = {}
        self._unread: dict[Key, None] = {}

    @property
    def cached(self) -> int:
        """Blocks in the tier, those being written included."""
        return len(self._order)

    @property
    def free(self) -> int:
        """Blocks that can be stored now, evictable ones included."""
        return self.capacity - self.pinned

    @property
    def pinned(self) -> int:
        """Blocks that are being written or read and cannot be evicted."""
        return len(self._writing) + len(self._busy)

    def match(self, chain: Chain, start: int, limit: int) -> tuple[int, bool]:
        """Consecutive blocks of a chain from ``start`` that the tier has or is about to have.

        Returns:
            Their number, and whether one of them is still being written.
        """
        found, pending = 0, False
        order, writing = self._order, self._writing
        for segment, lo, hi in chain.spans:
            if hi <= start:
                continue
            if lo >= limit:
                break
            for index in range(max(lo, start), min(hi, limit)):
                key = (segment, index)
                if key not in order:
                    return found, pending
                if writing and key in writing:
                    pending = True
                found += 1
        return found, pending

    def missing(self, chain: Chain, start: int, limit: int) -> list[Key]:
        """Blocks ``[start, limit)`` of a chain that the tier does not have."""
        return [key for key in _keys(chain, start, limit) if key not in self._order]

    def begin_store(self, keys: list[Key], protect: Iterable[Key], owner: object) -> bool:
        """Make room for ``keys`` and mark them as being written.

        Args:
            keys: Blocks the tier does not have.
            protect: Blocks that must not be evicted for them.
            owner: Call the blocks are accounted to, for eviction orders.

        Returns:
            False, with nothing changed, if there is no room.
        """
        surplus = len(self._order) + len(keys) - self.capacity
        if surplus > 0 and not self._evict(surplus, dict.fromkeys(protect)):
            return False
        for key in keys:
            self._order[key] = owner
            self._writing[key] = None
            key[0].cpu_blocks += 1
        return True

    def end_store(self, keys: Iterable[Key], *, success: bool = True) -> None:
        """The blocks are written, or never will be."""
        for key in keys:
            del self._writing[key]
            if success:
                self.stored += 1
                self._unread[key] = None
            else:
                self._remove(key)

    def begin_load(self, keys: Iterable[Key]) -> None:
        """Keep blocks in the tier while they are read."""
        for key in keys:
            self._busy[key] = self._busy.get(key, 0) + 1
            if key in self._unread:
                del self._unread[key]
                self.used += 1

    def end_load(self, keys: Iterable[Key]) -> None:
        """The blocks were read."""
        for key in keys:
            left = self._busy[key] - 1
            if left:
                self._busy[key] = left
            else:
                del self._busy[key]

    def touch(self, chain: Chain, start: int, limit: int) -> None:
        """Make blocks ``[start, limit)`` of a chain the most recently used, the head above the tail."""
        order = self._order
        for segment, lo, hi in reversed(chain.spans):
            for index in range(min(hi, limit) - 1, max(lo, start) - 1, -1):
                key = (segment, index)
                if key in order:
                    order.move_to_end(key)

    def keys(self, chain: Chain, start: int, limit: int) -> list[Key]:
        """Names of blocks ``[start, limit)`` of a chain."""
        return _keys(chain, start, limit)

    def check(self) -> None:
        """Verify conservation; raises AssertionError with the equation."""
        assert len(self._order) <= self.capacity, (
            f"cached {len(self._order)} <= capacity {self.capacity}"
        )
        assert all(key in self._order for key in self._writing)
        assert all(key in self._order for key in self._busy)

    def _evict(self, count: int, protect: dict[Key, None]) -> bool:
        def evictable(key: Key) -> bool:
            return key not in self._writing and key not in self._busy and key not in protect

        victims: list[Key] = []
        if self.evict_key is None:
            for key in self._order:
                if evictable(key):
                    victims.append(key)
                    if len(victims) == count:
                        break
        else:
            rank: Any = self.evict_key
            ranked = [(rank(owner), i, key) for i, (key, owner) in enumerate(self._order.items())]
            ranked = [entry for entry in ranked if evictable(entry[2])]
            ranked.sort(key=lambda entry: entry[:2])
            victims = [key for _, _, key in ranked[:count]]
        if len(victims) < count:
            return False
        for key in victims:
            self._remove(key)
        self.evicted += count
        return True

    def _remove(self, key: Key) -> None:
        del self._order[key]
        self._unread.pop(key, None)
        segment = key[0]
        segment.cpu_blocks -= 1
        if not segment.cpu_blocks and not segment.live:
            self._tree.forget(segment)


def _keys(chain: Chain, start: int, limit: int) -> list[Key]:
    keys: list[Key] = []
    for segment, lo, hi in chain.spans:
        if hi > start:
            keys.extend((segment, i) for i in range(max(lo, start), min(hi, limit)))
        if hi >= limit:
            break
    return keys
