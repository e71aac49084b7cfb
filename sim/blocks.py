"""GPU KV memory block by block: the reference that the fast pool must equal.

One Python object operation per block, in the order of vLLM 0.32 ``v1/core/block_pool.py``
(``get_new_blocks``, ``touch``, ``free_blocks``, ``cache_full_blocks``, ``BlockHashToBlockMap``).
Use it to check :class:`tokencake.sim.kv.RunPool` (``engine.runs=false``), not for speed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from tokencake.sim.chains import Chain, ContentTree, Segment
from tokencake.sim.extents import NO_MATCH, EvictKey, Holding, Match

Key = tuple[Segment, int]


class BlockPool:
    """Same interface and same decisions as :class:`tokencake.sim.kv.RunPool`.

    ``Match.parts`` and ``Holding.spans`` hold block numbers instead of extents.
    """

    def __init__(self, blocks: int, tree: ContentTree, *, caching: bool = True, unhashed_first: bool = True):
        self.capacity = blocks
        self.cached = 0
        self.evicted = 0
        self.evict_key: EvictKey | None = None
        self.on_reuse: Callable[[object, int, int], None] | None = None
        self._tree = tree
        self._caching = caching
        self._unhashed_first = unhashed_first
        self._queue: OrderedDict[int, None] = OrderedDict((i, None) for i in range(1, blocks + 1))
        self._references = [0] * (blocks + 1)
        self._key: list[Key | None] = [None] * (blocks + 1)
        self._owner: list[object] = [None] * (blocks + 1)
        self._stores: dict[int, list[tuple[object, int]]] = {}
        self._copies: dict[Key, dict[int, None]] = {}

    @property
    def free(self) -> int:
        """Blocks that nobody holds, cached ones included."""
        return len(self._queue)

    def match(self, chain: Chain, limit: int) -> Match:
        """See :meth:`RunPool.match`."""
        if not self._caching:
            return NO_MATCH
        found: list[int] = []
        free = 0
        for segment, lo, hi in chain.spans:
            for index in range(lo, min(hi, limit)):
                copies = self._copies.get((segment, index))
                if not copies:
                    return Match(tuple(found), len(found), free) if found else NO_MATCH  # type: ignore[arg-type]
                block = next(iter(copies))
                found.append(block)
                free += self._references[block] == 0
        return Match(tuple(found), len(found), free) if found else NO_MATCH  # type: ignore[arg-type]

    def acquire(self, holding: Holding, match: Match) -> None:
        """See :meth:`RunPool.acquire`."""
        for block in self._numbers(match.parts):
            if self._references[block] == 0:
                del self._queue[block]
                self.cached -= 1
            self._references[block] += 1
            holding.spans.append(block)  # type: ignore[arg-type]
        holding.hashed += match.blocks

    def take(self, holding: Holding, count: int) -> None:
        """See :meth:`RunPool.take`."""
        if count > self.free:
            raise ValueError(f"cannot take {count} blocks, {self.free} are free")
        for _ in range(count):
            block = next(iter(self._queue)) if self.evict_key is None else self._choose()
            del self._queue[block]
            if self._key[block] is not None:
                self.cached -= 1
                self.evicted += 1
                self._let_go(block)
            self._references[block] = 1
            holding.spans.append(block)  # type: ignore[arg-type]
        holding.private += count

    def grow(self, holding: Holding, hashed: int) -> None:
        """See :meth:`RunPool.grow`."""
        if not self._caching:
            return
        for segment, lo, hi in holding.chain.spans:
            for index in range(max(lo, holding.hashed), min(hi, hashed)):
                block = self._numbers(holding.spans)[index]
                self._key[block] = (segment, index)
                copies = self._copies.setdefault((segment, index), {})
                if not copies:
                    segment.extents.append(None)  # type: ignore[arg-type]
                copies[block] = None
                holding.hashed += 1
                holding.private -= 1

    def release(self, holding: Holding) -> None:
        """See :meth:`RunPool.release`."""
        self._free(self._numbers(holding.spans), holding.owner)
        holding.spans.clear()
        holding.hashed = holding.private = 0

    def truncate(self, holding: Holding, blocks: int) -> None:
        """See :meth:`RunPool.truncate`."""
        numbers = self._numbers(holding.spans)
        keep = min(blocks, holding.hashed)
        self._free(numbers[keep:], holding.owner)
        del holding.spans[keep:]
        holding.hashed, holding.private = keep, 0

    def move(self, source: Holding, target: Holding, count: int) -> None:
        """See :meth:`RunPool.move`."""
        moved = source.spans[-count:]
        del source.spans[-count:]
        target.spans.extend(moved)
        source.private -= count
        target.private += count

    def hand_over(self, source: Holding, target: Holding) -> None:
        """See :meth:`RunPool.hand_over`."""
        target.spans, source.spans = source.spans, target.spans
        target.hashed, source.hashed = source.hashed, 0
        target.private, source.private = source.private, 0

    def charges(self, holdings: list[Holding]) -> list[tuple[Holding, int]]:
        """See :meth:`RunPool.charges`."""
        counted: dict[int, None] = {}
        result: list[tuple[Holding, int]] = []
        for holding in holdings:
            fresh = [n for n in self._numbers(holding.spans) if n not in counted]
            counted.update(dict.fromkeys(fresh))
            result.append((holding, len(fresh)))
        return result

    def own(self, holding: Holding) -> int:
        """See :meth:`RunPool.own`."""
        return sum(self._references[block] == 1 for block in self._numbers(holding.spans))

    def watch(self, holding: Holding, lo: int, hi: int, job: object) -> None:
        """See :meth:`RunPool.watch`."""
        self._watch(self._numbers(holding.spans), lo, hi, job)

    def watch_found(self, match: Match, lo: int, hi: int, job: object) -> None:
        """See :meth:`RunPool.watch_found`."""
        self._watch(self._numbers(match.parts), lo, hi, job)

    def _watch(self, numbers: list[int], lo: int, hi: int, job: object) -> None:
        for index, block in enumerate(numbers[lo:hi], lo):
            self._stores.setdefault(block, []).append((job, index))

    def watchers(self, holding: Holding) -> list[tuple[object, int, int]]:
        """See :meth:`RunPool.watchers`."""
        return [
            (job, index, index + 1)
            for block in self._numbers(holding.spans)
            for job, index in self._stores.get(block, ())
        ]

    def unwatch(self, job: object) -> None:
        """See :meth:`RunPool.unwatch`."""
        for block, watching in list(self._stores.items()):
            kept = [entry for entry in watching if entry[0] is not job]
            if kept:
                self._stores[block] = kept
            else:
                del self._stores[block]

    def forget(self, chain: Chain, start: int) -> int:
        """See :meth:`RunPool.forget`."""
        forgotten = 0
        for segment, lo, hi in reversed(chain.spans):
            for index in range(hi - 1, max(lo, start) - 1, -1):
                for block in list(self._copies.get((segment, index), ())):
                    if self._references[block] == 0:
                        self._let_go(block)
                        self._queue.move_to_end(block, last=False)
                        self.cached -= 1
                        forgotten += 1
        return forgotten

    def free_list(self) -> list[tuple[Segment | None, int]]:
        """See :meth:`RunPool.free_list`."""
        return [self._key[block] or (None, 0) for block in self._queue]

    def check(self, holdings: list[Holding]) -> None:
        """Verify block conservation; raises AssertionError with the whole equation."""
        referenced = {block for h in holdings for block in self._numbers(h.spans)}
        assert len(referenced) + self.free == self.capacity, (
            f"free {self.free} + held {len(referenced)} = capacity {self.capacity}"
        )
        cached = sum(self._key[block] is not None for block in self._queue)
        assert cached == self.cached, f"cached {self.cached}, listed {cached}"

    # -- internals -----------------------------------------------------------------------------

    def _free(self, numbers: list[int], owner: object) -> None:
        front: list[int] = []
        for block in reversed(numbers):
            self._references[block] -= 1
            if self._references[block]:
                continue
            self._owner[block] = owner
            self._queue[block] = None
            if self._key[block] is not None:
                self.cached += 1
            elif self._unhashed_first:
                front.append(block)
        for block in front:
            self._queue.move_to_end(block, last=False)

    def _let_go(self, block: int) -> None:
        """Forget what a free block holds, and wait for those who still read it."""
        for job, index in self._stores.pop(block, ()):
            if self.on_reuse is not None:
                self.on_reuse(job, index, index + 1)
        self._forget(block)

    def _forget(self, block: int) -> None:
        key = self._key[block]
        assert key is not None
        self._key[block] = None
        copies = self._copies[key]
        del copies[block]
        if not copies:
            del self._copies[key]
            segment = key[0]
            segment.extents.pop()
            if not segment.extents and not segment.live:
                self._tree.forget(segment)

    def _choose(self) -> int:
        """See :meth:`tokencake.sim.free_list.FreeList.choose`."""
        key = self.evict_key
        assert key is not None
        best: int | None = None
        best_key: Any = None
        for block in self._queue:
            if self._key[block] is None:
                return block
            value: Any = key(self._owner[block])
            if (best is None or value < best_key) and self._is_leaf(block):
                best, best_key = block, value
        assert best is not None
        return best

    def _is_leaf(self, block: int) -> bool:
        """Whether no free cached block follows this one."""
        segment, index = self._key[block]  # type: ignore[misc]
        after = [segment, *segment.branches.get(index + 1, {}).values()]
        copies = [copy for follower in after for copy in self._copies.get((follower, index + 1), ())]
        return all(self._references[copy] for copy in copies)

    @staticmethod
    def _numbers(parts: Any) -> list[int]:
        numbers: list[int] = parts
        return numbers
