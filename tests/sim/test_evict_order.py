"""A policy's order of eviction: smallest key first, but never a block before those that follow it."""

import pytest

from tokencake.sim.blocks import BlockPool
from tokencake.sim.chains import ContentTree
from tokencake.sim.extents import Holding
from tokencake.sim.kv import RunPool


@pytest.fixture
def tree():
    """Blocks of one token."""
    return ContentTree(1)


@pytest.fixture(params=[RunPool, BlockPool], ids=["runs", "blocks"])
def pool(request, tree):
    """Eight blocks of one token, of which the smallest key goes first."""
    made = request.param(8, tree)
    made.evict_key = lambda owner: owner
    return made


@pytest.fixture
def use(pool, tree):
    """``use(content, key)``: compute it and let go of it."""

    def once(pieces, key):
        chain = tree.chain(pieces)
        holding = Holding(chain, key)
        match = pool.match(chain, chain.blocks)
        pool.acquire(holding, match)
        pool.take(holding, chain.blocks - match.blocks)
        pool.grow(holding, chain.blocks)
        pool.release(holding)
        return chain

    return once


def test_the_smallest_key_goes_first(pool, use):
    late, early = use((("a", 3),), 2), use((("b", 3),), 1)
    use((("c", 4),), 3)
    assert pool.match(early, 3).blocks == 1
    assert pool.match(late, 3).blocks == 3


def test_a_shared_head_outlives_what_follows_it(pool, use):
    """The chain that let go of the head last has the smallest key; others still need it."""
    wanted = use((("system", 2), ("a", 3)), 5)
    use((("system", 2), ("b", 1)), 1)
    use((("c", 3),), 9)
    assert pool.match(wanted, 5).blocks == 5
    use((("d", 2),), 9)
    assert pool.match(wanted, 5).blocks == 3  # its own tail goes before the head that it shares
