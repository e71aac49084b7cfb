"""VLLM's CPU tier: its own manager, counted and ranked, and seen as the simulator sees its own."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from vllm.v1.kv_offload.base import OffloadingManager, OffloadKey, PrepareStoreOutput, ReqContext, make_offload_key
from vllm.v1.kv_offload.cpu.manager import CPUOffloadingManager
from vllm.v1.kv_offload.cpu.policies.lru import LRUCachePolicy
from vllm.v1.kv_offload.cpu.spec import CPUOffloadingSpec

from tokencake.engine.contents import HashedChain
from tokencake.sim.chains import Chain, ContentTree
from tokencake.sim.cpu_blocks import BlockCpuTier
from tokencake.sim.parts import Parts

if TYPE_CHECKING:
    from vllm.v1.kv_offload.base import LoadStoreSpec

    from tokencake.sim.calls import Call

_GROUP = 0


class RankedLru(LRUCachePolicy):
    """VLLM's LRU policy, and a policy's order of eviction before it.

    Attributes:
        rank: Says what goes first, given who stored it; None: least recently used.
        owners: Who stored each block.
    """

    def __init__(self, cache_capacity: int):
        super().__init__(cache_capacity)
        self.rank: Callable[[str], Any] | None = None
        self.owners: dict[OffloadKey, str] = {}

    def evict(self, n: int, protected: set[OffloadKey]) -> list[tuple[OffloadKey, Any]] | None:
        """Give up ``n`` blocks that nobody reads or writes; None, and no change, if there are fewer."""
        if self.rank is None:
            return super().evict(n, protected)
        rank = self.rank
        idle = [key for key in self._evictable if key not in protected]
        if len(idle) < n:
            return None
        idle.sort(key=lambda key: (rank(self.owners[key]), self._ranks[key]))
        evicted = [(key, self.chunks[key]) for key in idle[:n]]
        for key, _ in evicted:
            self.remove(key)
        return evicted


class CountedManager(CPUOffloadingManager):
    """VLLM's manager of the CPU tier, with counters.

    Attributes:
        stored: Blocks written so far.
        used: Blocks read at least once after they were written.
        refused: Requests whose last store found no room.
        skipped: Stores that found no room; a request's tries from one block on count once.
    """

    def __init__(self, blocks: int):
        super().__init__(blocks)
        self._policy = RankedLru(blocks)
        self.stored = self.used = self.skipped = 0
        self.refused: dict[str, None] = {}
        self._skipped_at: dict[str, OffloadKey] = {}
        self._unread: dict[OffloadKey, None] = {}

    @property
    def blocks(self) -> RankedLru:
        """What is in the tier."""
        return self._policy

    @property
    def idle(self) -> int:
        """Blocks that are neither written nor read."""
        return self._num_evictable_cache_chunks

    def prepare_store(self, keys: Collection[OffloadKey], req_context: ReqContext) -> PrepareStoreOutput | None:
        """Take room for what the tier lacks of ``keys``, which the connector wants to store."""
        output = self.store(keys, req_context)
        if output is None:
            first = next(iter(keys))
            self.skipped += self._skipped_at.get(req_context.req_id) != first
            self._skipped_at[req_context.req_id] = first
            self.refused[req_context.req_id] = None
            return None
        self.refused.pop(req_context.req_id, None)
        return output

    def store(self, keys: Collection[OffloadKey], req_context: ReqContext) -> PrepareStoreOutput | None:
        """Take room for what the tier lacks of ``keys``."""
        output = super().prepare_store(keys, req_context)
        if output is not None:
            for key in output.evicted_keys:
                self._unread.pop(key, None)
            self.blocks.owners.update(dict.fromkeys(output.keys_to_store, req_context.req_id))
        return output

    def complete_store(self, keys: Collection[OffloadKey], req_context: ReqContext, success: bool = True) -> None:
        """Blocks are written, or given up."""
        super().complete_store(keys, req_context, success)
        if success:
            self.stored += len(keys)
            self._unread.update(dict.fromkeys(keys))

    def on_request_finished(self, req_context: ReqContext) -> None:
        """A request has ended, and so have its stores."""
        self._skipped_at.pop(req_context.req_id, None)
        super().on_request_finished(req_context)

    def prepare_load(self, keys: Collection[OffloadKey], req_context: ReqContext) -> LoadStoreSpec:
        """Blocks are about to be read."""
        for key in keys:
            if key in self._unread:
                del self._unread[key]
                self.used += 1
        return super().prepare_load(keys, req_context)


class CountedSpec(CPUOffloadingSpec):
    """VLLM's CPU offloading with a counted manager, of ``cpu_blocks`` blocks."""

    _manager: OffloadingManager | None

    def get_manager(self) -> OffloadingManager:
        """The manager, made once."""
        if self._manager is None:
            self._manager = CountedManager(int(self.extra_config["cpu_blocks"]))
        return self._manager


class EngineTier(BlockCpuTier):
    """The manager, for transfers and views of the host; parts are ranges of chains.

    Args:
        manager: VLLM's.
        tree: Contents of the engine.
        loading: The connector's set of blocks that a copy to the GPU reads.
    """

    def __init__(self, manager: CountedManager, tree: ContentTree, loading: set[OffloadKey]):  # no block of its own
        self.capacity = manager._num_chunks
        self.evict_key = None
        self._manager = manager
        self._tree = tree
        self._loading = loading

    @property
    def stored(self) -> int:  # type: ignore[override]
        """Blocks written so far."""
        return self._manager.stored

    @property
    def used(self) -> int:  # type: ignore[override]
        """Blocks read at least once after they were written."""
        return self._manager.used

    @property
    def cached(self) -> int:
        """Blocks in the tier."""
        return len(self._manager.blocks.chunks)

    @property
    def pinned(self) -> int:
        """Blocks that are written or read."""
        return self.cached - self._manager.idle

    def rank_by(self, key: Callable[[Call], object] | None, calls: dict[str, Call]) -> None:
        """Give up the blocks first whose owner has the smallest key."""
        self._manager.blocks.rank = None if key is None else lambda owner: key(calls[owner])

    def match(self, chain: Chain, start: int, limit: int) -> tuple[int, bool]:
        """See :meth:`tokencake.sim.cpu.CpuTier.match`."""
        found, pending = 0, False
        for key in _keys(chain, start, limit):
            chunk = self._manager.blocks.get(key)
            if chunk is None:
                break
            pending = pending or not chunk.is_ready
            found += 1
        return found, pending

    def being_read(self, chain: Chain, start: int, limit: int) -> bool:
        """See :meth:`tokencake.sim.cpu.CpuTier.being_read`."""
        return any(key in self._loading for key in _keys(chain, start, limit))

    def begin_store(self, chain: Chain, start: int, limit: int, owner: object) -> Parts | None:
        """See :meth:`tokencake.sim.cpu.CpuTier.begin_store`."""
        keys = _keys(chain, start, limit)
        output = self._manager.store(keys, ReqContext(owner.id))  # type: ignore[attr-defined]
        if output is None:
            return None
        taken = set(output.keys_to_store)
        return _ranges(chain, [start + i for i, key in enumerate(keys) if key in taken])

    def end_store(self, parts: Parts, *, success: bool = True) -> None:
        """See :meth:`tokencake.sim.cpu.CpuTier.end_store`."""
        self._manager.complete_store(_listed(parts), ReqContext(""), success)

    def begin_load(self, chain: Chain, start: int, limit: int) -> Parts:
        """See :meth:`tokencake.sim.cpu.CpuTier.begin_load`."""
        keys = _keys(chain, start, limit)
        self._manager.prepare_load(keys, ReqContext(""))
        self._loading.update(keys)
        return _ranges(chain, list(range(start, limit)))

    def end_load(self, parts: Parts) -> None:
        """See :meth:`tokencake.sim.cpu.CpuTier.end_load`."""
        keys = _listed(parts)
        self._manager.complete_load(keys, ReqContext(""))
        self._loading.difference_update(keys)

    def touch(self, chain: Chain, start: int, limit: int) -> None:
        """See :meth:`tokencake.sim.cpu.CpuTier.touch`."""
        self._manager.touch(_keys(chain, start, limit), ReqContext(""))

    def slots(self, parts: Parts) -> list[int]:
        """Numbers of the host's buffers that parts are written to or read from."""
        chunks = [self._manager.blocks.get(key) for key in _listed(parts)]
        return [chunk.chunk_id for chunk in chunks if chunk is not None]

    def check(self) -> None:
        """Verify conservation; raises AssertionError with the equation."""
        assert self.cached <= self.capacity, f"cached {self.cached} <= capacity {self.capacity}"


def key_of(block_hash: Any) -> OffloadKey:
    """The tier's name of a block."""
    return make_offload_key(block_hash, _GROUP)


def runs_of(numbers: list[int]) -> int:
    """Stretches of consecutive numbers."""
    return sum(i == 0 or number != numbers[i - 1] + 1 for i, number in enumerate(numbers))


def _keys(chain: Chain, start: int, limit: int) -> list[OffloadKey]:
    return [key_of(h) for h in chain.block_hashes[start:limit]] if isinstance(chain, HashedChain) else []


def _ranges(chain: Chain, numbers: list[int]) -> Parts:
    parts: list[tuple[Any, int, int]] = []
    for number in numbers:
        if parts and parts[-1][2] == number:
            parts[-1] = (chain, parts[-1][1], number + 1)
        else:
            parts.append((chain, number, number + 1))
    return parts


def _listed(parts: Parts) -> list[OffloadKey]:
    return [key for chain, lo, hi in parts for key in _keys(chain, lo, hi)]  # type: ignore[arg-type]
