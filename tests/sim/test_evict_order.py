"""A policy's order of eviction: smallest key first, but never a block before those that follow it."""

import pytest

from tokencake.sim.blocks import BlockPool
from tokencake.sim.chains import ContentTree
from tokencake.sim.extents import Holding
from tokencake.sim.kv import RunPool


@pytest.fixture(params=[RunPool, BlockPool], ids=["runs", "blocks"])
def pool(request):
    """Eight blocks of one token, and ``use(content, key)``: compute it and let go of it."""
    tree = ContentTree(1)
    made = request.param(8, tree)
    made.evict_key = lambda owner: owner

    def use(pieces, key):
        chain = tree.chain(pieces)
        holding = Holding(chain, key)
        match = made.match(chain, chain.blocks)
        made.acquire(holding, match)
        made.take(holding, chain.blocks - match.blocks)
        made.grow(holding, chain.blocks)
        made.release(holding)
        return chain

    made.use = use
    return made


def test_the_smallest_key_goes_first(pool):
    late, early = pool.use((("a", 3),), 2), pool.use((("b", 3),), 1)
    pool.use((("c", 4),), 3)
    assert pool.match(early, 3).blocks == 1
    assert pool.match(late, 3).blocks == 3


def test_a_shared_head_outlives_what_follows_it(pool):
    """The chain that let go of the head last has the smallest key; others still need it."""
    wanted = pool.use((("system", 2), ("a", 3)), 5)
    pool.use((("system", 2), ("b", 1)), 1)
    pool.use((("c", 3),), 9)
    assert pool.match(wanted, 5).blocks == 5
    pool.use((("d", 2),), 9)
    assert pool.match(wanted, 5).blocks == 3  # its own tail goes before the head that it shares
