"""VLLM's block pool, counted, ranked by a policy, and seen as the simulator sees its own.

:class:`WatchedBlockPool` is vLLM's pool with three additions: it counts what is cached and evicted, it
knows which request released a block last, and it can take the block that a policy ranks lowest
instead of the head of the free list. :class:`EnginePool` lets the rest of a host (pins, transfers,
views) work on it through the interface of :class:`tokencake.sim.blocks.BlockPool`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vllm.v1.core.block_pool import BlockPool
from vllm.v1.core.kv_cache_utils import KVCacheBlock, get_block_hash, make_block_hash_with_group_id

from tokencake.engine.contents import HashedChain
from tokencake.sim.blocks import BlockPool as SimulatedPool
from tokencake.sim.chains import Chain, ContentTree, Segment
from tokencake.sim.extents import NO_MATCH, Holding, Match

if TYPE_CHECKING:
    from tokencake.sim.calls import Call

_GROUP = 0  # dense full-attention models have one KV cache group


class WatchedBlockPool(BlockPool):
    """VLLM's pool with counters, owners and a choice of what to reuse.

    Attributes:
        cached: Free blocks that can be hit.
        evicted: Cached blocks that were given to somebody else so far.
        rank: Says which cached block goes first, given who released it last; None: vLLM's order.
    """

    cached: int
    evicted: int
    rank: Callable[[str], Any] | None
    _owner: str
    _owners: dict[int, str]
    _parents: dict[Any, Any]

    @classmethod
    def watch(cls, pool: BlockPool) -> WatchedBlockPool:
        """Turn a pool that vLLM built, and that everybody refers to, into a watched one."""
        pool.__class__ = cls
        pool.cached = pool.evicted = 0
        pool.rank = None
        pool._owner = ""
        pool._owners = {}
        pool._parents = {}
        return pool

    @contextmanager
    def released_by(self, owner: str) -> Iterator[None]:
        """What is freed meanwhile was released by ``owner``."""
        self._owner = owner
        try:
            yield
        finally:
            self._owner = ""

    def get_new_blocks(self, num_blocks: int) -> list[KVCacheBlock]:
        """Take blocks from the head of the free list, or those that the policy ranks lowest."""
        if self.rank is not None:
            self._bring_forward(num_blocks)
        return super().get_new_blocks(num_blocks)

    def _maybe_evict_cached_block(self, block: KVCacheBlock) -> bool:
        evicted = super()._maybe_evict_cached_block(block)
        if evicted and block.ref_cnt == 0:
            self.cached -= 1
            self.evicted += 1
        return evicted

    def touch(self, blocks: Sequence[KVCacheBlock]) -> None:
        """Add a reference to cached blocks."""
        self.cached -= sum(block.ref_cnt == 0 for block in blocks)
        super().touch(blocks)

    def free_blocks(self, ordered_blocks: Iterable[KVCacheBlock]) -> None:
        """Drop a reference to each block."""
        blocks = list(ordered_blocks)
        super().free_blocks(blocks)
        for block in blocks:
            if block.ref_cnt == 0:
                self._owners[block.block_id] = self._owner
                self.cached += block.block_hash is not None

    def forget(self, blocks: Iterable[KVCacheBlock]) -> int:
        """Make free cached blocks empty, and put each at the head of the free list."""
        forgotten = 0
        for block in blocks:
            super()._maybe_evict_cached_block(block)
            self.free_block_queue.remove(block)
            self.free_block_queue.prepend_n([block])
            self.cached -= 1
            forgotten += 1
        return forgotten

    def copies(self, block_hash: Any) -> list[KVCacheBlock]:
        """All blocks that hold one content, oldest first."""
        found = self.cached_block_hash_to_block._cache.get(_key(block_hash))
        if found is None:
            return []
        return list(found.values()) if isinstance(found, dict) else [found]

    def cache_full_blocks(
        self, request: Any, blocks: list[KVCacheBlock], num_cached_blocks: int, num_full_blocks: int, **kwargs: Any
    ) -> None:
        """Make full blocks findable; where a policy ranks, also remember which block each one follows."""
        super().cache_full_blocks(request, blocks, num_cached_blocks, num_full_blocks, **kwargs)
        if self.rank is not None:
            hashes = request.block_hashes
            for i in range(max(num_cached_blocks, 1), num_full_blocks):
                self._parents[_key(hashes[i])] = _key(hashes[i - 1])

    def _bring_forward(self, count: int) -> None:
        """Put the blocks to be reused at the head of the free list.

        Empty ones come first, then the lowest ranks, but no block before a free one that follows it.
        """
        queue, rank, parents = self.free_block_queue, self.rank, self._parents
        assert rank is not None
        free = queue.get_all_free_blocks()
        chosen = [block for block in free if block.block_hash is None][:count]
        waiting: dict[Any, list[tuple[Any, int]]] = {}
        followers: dict[Any, int] = {}
        for place, block in enumerate(free):
            if block.block_hash is not None:
                waiting.setdefault(block.block_hash, []).append((rank(self._owners[block.block_id]), place))
                parent = parents.get(block.block_hash)
                followers[parent] = followers.get(parent, 0) + 1
        leaves = [entry for name, entries in waiting.items() if not followers.get(name) for entry in entries]
        heapq.heapify(leaves)
        while len(chosen) < count:
            block = free[heapq.heappop(leaves)[1]]
            chosen.append(block)
            parent = parents.get(block.block_hash)
            followers[parent] -= 1
            if not followers[parent]:
                for entry in waiting.get(parent, ()):
                    heapq.heappush(leaves, entry)
        for block in chosen:
            queue.remove(block)
        queue.prepend_n(chosen)


def _key(block_hash: Any) -> Any:
    return make_block_hash_with_group_id(block_hash, _GROUP)


class EnginePool(SimulatedPool):
    """The watched pool, for pins, transfers and views; spans of holdings are block ids.

    Attributes:
        on_taken: Told about blocks that are overwritten or forgotten without a plan of vLLM.
    """

    def __init__(self, pool: WatchedBlockPool, tree: ContentTree, block_size: int):
        super().__init__(0, tree, caching=pool.enable_caching)
        self.capacity = pool.num_gpu_blocks - 1
        self.on_taken: Callable[[list[int]], None] = _nothing
        self._pool = pool
        self._block_size = block_size

    @property
    def free(self) -> int:
        """Blocks that nobody holds, cached ones included."""
        return self._pool.get_num_free_blocks()

    @property
    def cached(self) -> int:
        """Free blocks that can be hit."""
        return self._pool.cached

    @cached.setter
    def cached(self, value: int) -> None:
        assert value == 0  # set by the base class, before there is a pool

    @property
    def evicted(self) -> int:
        """Cached blocks that were overwritten so far."""
        return self._pool.evicted

    @evicted.setter
    def evicted(self, value: int) -> None:
        assert value == 0

    def match(self, chain: Chain, limit: int) -> Match:
        """See :meth:`tokencake.sim.kv.RunPool.match`."""
        if not self._caching or not isinstance(chain, HashedChain):
            return NO_MATCH
        found: list[int] = []
        free = 0
        for block_hash in chain.block_hashes[:limit]:
            blocks = self._pool.get_cached_block(block_hash, [_GROUP])
            if blocks is None:
                break
            found.append(blocks[0].block_id)
            free += blocks[0].ref_cnt == 0
        return Match(tuple(found), len(found), free) if found else NO_MATCH  # type: ignore[arg-type]

    def acquire(self, holding: Holding, match: Match) -> None:
        """See :meth:`tokencake.sim.kv.RunPool.acquire`."""
        numbers = self._numbers(match.parts)
        self._pool.touch(self._blocks(numbers))
        holding.spans.extend(numbers)  # type: ignore[arg-type]
        holding.hashed += match.blocks

    def take(self, holding: Holding, count: int) -> None:
        """See :meth:`tokencake.sim.kv.RunPool.take`."""
        taken = [block.block_id for block in self._pool.get_new_blocks(count)]
        holding.spans.extend(taken)
        holding.private += count
        self.on_taken(taken)

    def grow(self, holding: Holding, hashed: int) -> None:
        """See :meth:`tokencake.sim.kv.RunPool.grow`."""
        hashed = min(hashed, holding.chain.blocks)
        if not self._caching or hashed <= holding.hashed:
            return
        blocks = self._blocks(self._numbers(holding.spans))
        self._pool.cache_full_blocks(
            holding.chain, blocks, holding.hashed, hashed, block_size=self._block_size, kv_cache_group_id=_GROUP
        )
        holding.private -= hashed - holding.hashed
        holding.hashed = hashed

    def own(self, holding: Holding) -> int:
        """See :meth:`tokencake.sim.kv.RunPool.own`."""
        return sum(block.ref_cnt == 1 for block in self._blocks(self._numbers(holding.spans)))

    def on_reuse_of(self, numbers: list[int], told: Callable[[KVCacheBlock], None] | None) -> None:
        """Tell once, when one of these blocks is given to somebody; None: nobody cares any more."""
        for number in numbers:
            if told is not None:
                self._pool._reuse_watchers[number] = told
            else:
                self._pool._reuse_watchers.pop(number, None)

    def hold(self, holding: Holding, blocks: Sequence[KVCacheBlock]) -> None:
        """Let a holding show blocks that vLLM holds for a request."""
        holding.spans = [block.block_id for block in blocks]
        hashed = 0
        while hashed < len(blocks) and blocks[hashed].block_hash is not None:
            hashed += 1
        holding.hashed, holding.private = hashed, len(blocks) - hashed

    def forget(self, chain: Chain, start: int) -> int:
        """See :meth:`tokencake.sim.kv.RunPool.forget`."""
        if not isinstance(chain, HashedChain):
            return 0
        blocks = [
            block
            for block_hash in reversed(chain.block_hashes[start:])
            for block in self._pool.copies(block_hash)
            if block.ref_cnt == 0
        ]
        self.on_taken([block.block_id for block in blocks])
        self._pool._notify_reuse(blocks)
        return self._pool.forget(blocks)

    def free_list(self) -> list[tuple[Segment | None, int]]:
        """Hash of each free block, head of the list first; ``(None, 0)`` if it holds nothing."""
        hashes = [block.block_hash for block in self._pool.free_block_queue.get_all_free_blocks()]
        return [(None if found is None else get_block_hash(found), 0) for found in hashes]

    def check(self, holdings: list[Holding]) -> None:
        """Verify block conservation against vLLM's reference counts; raises AssertionError."""
        held: dict[int, int] = {}
        for holding in holdings:
            for number in self._numbers(holding.spans):
                held[number] = held.get(number, 0) + 1
        for block in self._pool.blocks[1:]:
            expected = held.get(block.block_id, 0)
            assert block.ref_cnt == expected, (
                f"block {block.block_id} has {block.ref_cnt} holders, {expected} are known"
            )
        assert len(held) + self.free == self.capacity, f"free {self.free} + held {len(held)} = capacity {self.capacity}"

    def rank_by(self, key: Callable[[Call], object] | None, calls: dict[str, Call]) -> None:
        """Reuse the blocks first whose last releaser has the smallest key."""
        self._pool.rank = None if key is None else lambda owner: key(calls[owner])

    def _free(self, numbers: list[int], owner: object) -> None:
        if numbers:
            with self._pool.released_by(owner.id):  # type: ignore[attr-defined]
                self._pool.free_blocks(self._blocks(numbers)[::-1])

    def _blocks(self, numbers: list[int]) -> list[KVCacheBlock]:
        return [self._pool.blocks[number] for number in numbers]


def _nothing(_block_ids: list[int]) -> None:
    """Nobody reads blocks that are free."""
