"""One hand-worked history of the free list, played on vLLM's block pool and on both of the simulator's.

Eight usable blocks. A takes four (three full and hashed, one partial), B takes two (both hashed). A
is freed, then B; then A's first block is used once more and freed. What was never hashed goes to
the front; what was goes to the back, each call's tail before its head.
"""

import pytest

from tokencake.engine.contents import Contents, block_hasher, prepare_hashing
from tokencake.engine.install import missing
from tokencake.engine.requests import make_request
from tokencake.sim.blocks import BlockPool
from tokencake.sim.chains import ContentTree
from tokencake.sim.extents import Holding
from tokencake.sim.kv import RunPool

SIZE = 16
A, B = (("a", 4 * SIZE),), (("b", 2 * SIZE),)

# Names of blocks: a0 is the first block of A; "-" holds nothing that can be found.
AFTER_A = ["-", "-", "-", "a2", "a1", "a0"]  # 4 7 8 3 2 1
AFTER_B = ["-", "-", "-", "a2", "a1", "a0", "b1", "b0"]  # 4 7 8 3 2 1 6 5
AFTER_TOUCH = ["-", "-", "-", "a2", "a1", "b1", "b0", "a0"]  # 4 7 8 3 2 6 5 1
AFTER_FOUR = ["a1", "b1", "b0", "a0"]  # 4 7 8 3 were taken, block 3 lost its hash


@pytest.mark.parametrize("kind", [RunPool, BlockPool])
def test_simulated_pools(kind):
    tree = ContentTree(SIZE)
    pool = kind(8, tree)
    chains = {"a": tree.chain(A), "b": tree.chain(B)}
    names = {
        (segment, i): f"{name}{i}"
        for name, chain in chains.items()
        for segment, lo, hi in chain.spans
        for i in range(lo, hi)
    }

    def free_list():
        return ["-" if segment is None else names[segment, i] for segment, i in pool.free_list()]

    a, b, again, four = Holding(chains["a"]), Holding(chains["b"]), Holding(chains["a"]), Holding(chains["a"])
    pool.take(a, 4)
    pool.grow(a, 3)
    pool.take(b, 2)
    pool.grow(b, 2)
    pool.release(a)
    assert free_list() == AFTER_A
    pool.release(b)
    assert free_list() == AFTER_B
    pool.acquire(again, pool.match(chains["a"], 1))
    pool.release(again)
    assert free_list() == AFTER_TOUCH
    pool.take(four, 4)
    assert free_list() == AFTER_FOUR
    assert pool.match(chains["a"], 4).blocks == 2
    pool.check([four])


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
@pytest.mark.filterwarnings("ignore")
def test_vllm_pool():
    from vllm.v1.core.block_pool import BlockPool as VllmPool

    prepare_hashing()
    contents = Contents(SIZE)
    pool = VllmPool(9, enable_caching=True, hash_block_size=SIZE)
    requests = {name: make_request(name, contents.ids(p), 1, block_hasher(SIZE)) for name, p in [("a", A), ("b", B)]}
    names = {}

    def take(name, count, hashed):
        blocks = pool.get_new_blocks(count)
        pool.cache_full_blocks(requests[name], blocks, 0, hashed, SIZE, 0)
        names.update({block.block_id: f"{name}{i}" for i, block in enumerate(blocks)})
        return blocks

    def free_list():
        queue = pool.free_block_queue.get_all_free_blocks()
        return ["-" if block.block_hash is None else names[block.block_id] for block in queue]

    a = take("a", 4, 3)
    b = take("b", 2, 2)
    pool.free_blocks(reversed(a))
    assert free_list() == AFTER_A
    pool.free_blocks(reversed(b))
    assert free_list() == AFTER_B
    pool.touch(a[:1])
    pool.free_blocks(a[:1])
    assert free_list() == AFTER_TOUCH
    assert [block.block_id for block in pool.get_new_blocks(4)] == [4, 7, 8, 3]
    assert free_list() == AFTER_FOUR
    assert pool.get_cached_block(requests["a"].block_hashes[2], [0]) is None
