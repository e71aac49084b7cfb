"""The CPU tier block by block: the reference that :mod:`tokencake.sim.cpu` must equal.

One dictionary operation per block, as in vLLM 0.32 ``v1/kv_offload/cpu/manager.py`` and
``policies/lru.py``. Used with ``engine.runs=false``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from tokencake.sim.chains import Chain, ContentTree, Segment
from tokencake.sim.extents import EvictKey
from tokencake.sim.parts import Parts

Key = tuple[Segment, int]


class BlockCpuTier:
    """Same interface and same decisions as :class:`tokencake.sim.cpu.CpuTier`."""

    def __init__(self, blocks: int, tree: ContentTree):
        self.capacity = blocks
        self.stored = self.used = 0
        self.evict_key: EvictKey | None = None
        self._tree = tree
        self._order: OrderedDict[Key, object] = OrderedDict()
        self._readers: dict[Key, int] = {}
        self._writing: dict[Key, None] = {}
        self._unread: dict[Key, None] = {}

    @property
    def cached(self) -> int:
        """See :class:`CpuTier`."""
        return len(self._order)

    @property
    def pinned(self) -> int:
        """See :class:`CpuTier`."""
        return len(self._writing) + len(self._readers)

    @property
    def free(self) -> int:
        """See :attr:`CpuTier.free`."""
        return self.capacity - self.pinned

    def match(self, chain: Chain, start: int, limit: int) -> tuple[int, bool]:
        """See :meth:`CpuTier.match`."""
        found, pending = 0, False
        for key in _keys(chain, start, limit):
            if key not in self._order:
                break
            pending = pending or key in self._writing
            found += 1
        return found, pending

    def being_read(self, chain: Chain, start: int, limit: int) -> bool:
        """See :meth:`CpuTier.being_read`."""
        return any(key in self._readers for key in _keys(chain, start, limit))

    def ready(self, chain: Chain, start: int, limit: int, begun: Parts) -> list[tuple[int, int]]:
        """See :meth:`CpuTier.ready`."""
        keys, new = _keys(chain, start, limit), _listed(begun)
        return [(key[1], key[1] + 1) for key in keys if key not in self._writing or key in new]

    def begin_store(self, chain: Chain, start: int, limit: int, owner: object) -> Parts | None:
        """See :meth:`CpuTier.begin_store`."""
        wanted = _keys(chain, start, limit)
        missing = [key for key in wanted if key not in self._order]
        surplus = len(self._order) + len(missing) - self.capacity
        if surplus > 0 and not self._evict(surplus, dict.fromkeys(wanted)):
            return None
        for key in missing:
            self._order[key] = owner
            self._writing[key] = None
            key[0].stretches.append(None)  # type: ignore[arg-type]  # one for each block, as a count
        return _joined(missing)

    def end_store(self, parts: Parts, *, success: bool = True) -> None:
        """See :meth:`CpuTier.end_store`."""
        for key in _listed(parts):
            del self._writing[key]
            if success:
                self.stored += 1
                self._unread[key] = None
            else:
                self._remove(key)

    def begin_load(self, chain: Chain, start: int, limit: int) -> Parts:
        """See :meth:`CpuTier.begin_load`."""
        keys = _keys(chain, start, limit)
        for key in keys:
            self._readers[key] = self._readers.get(key, 0) + 1
            if key in self._unread:
                del self._unread[key]
                self.used += 1
        return _joined(keys)

    def end_load(self, parts: Parts) -> None:
        """See :meth:`CpuTier.end_load`."""
        for key in _listed(parts):
            self._readers[key] -= 1
            if not self._readers[key]:
                del self._readers[key]

    def touch(self, chain: Chain, start: int, limit: int) -> None:
        """See :meth:`CpuTier.touch`."""
        for key in reversed(_keys(chain, start, limit)):
            if key in self._order:
                self._order.move_to_end(key)

    def check(self) -> None:
        """Verify conservation; raises AssertionError with the equation."""
        cached = len(self._order)
        assert cached <= self.capacity, f"cached {cached} <= capacity {self.capacity}"
        assert all(key in self._order for key in (*self._writing, *self._readers))

    def _evict(self, count: int, protect: dict[Key, None]) -> bool:
        order: Iterable[Key] = self._order
        if self.evict_key is not None:
            rank: Any = self.evict_key
            order = sorted(self._order, key=lambda key: rank(self._order[key]))
        victims = [
            key for key in order if key not in self._writing and key not in self._readers and key not in protect
        ][:count]
        if len(victims) < count:
            return False
        for key in victims:
            self._remove(key)
        return True

    def _remove(self, key: Key) -> None:
        del self._order[key]
        self._unread.pop(key, None)
        segment = key[0]
        segment.stretches.pop()
        if not segment.stretches and not segment.live:
            self._tree.forget(segment)


def _keys(chain: Chain, start: int, limit: int) -> list[Key]:
    return [(segment, index) for segment, lo, hi in chain.spans for index in range(max(lo, start), min(hi, limit))]


def _joined(keys: list[Key]) -> Parts:
    parts: Parts = []
    for segment, index in keys:
        if parts and parts[-1][0] is segment and parts[-1][2] == index:
            parts[-1] = (segment, parts[-1][1], index + 1)
        else:
            parts.append((segment, index, index + 1))
    return parts


def _listed(parts: Parts) -> list[Key]:
    return [(segment, index) for segment, lo, hi in parts for index in range(lo, hi)]
