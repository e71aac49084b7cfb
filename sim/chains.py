"""Which blocks of which prompts hold the same tokens: the content tree.

A prefix cache names a KV block by the hash of every token up to its end, so two calls share
block ``i`` exactly when their first ``(i + 1) * block_size`` tokens are equal. A trace says which
tokens are equal by naming *pieces* of token streams, so no token and no hash is ever needed: the
tree below gives every distinct block one name, ``(segment, index)``.

A :class:`Segment` owns a run of consecutive blocks that all of its users pass through in order. A
chain that leaves a segment half way does not split it: the new segment hangs below it at that
depth, and a chain is a short list of spans. A chain that continues a segment from its very end
simply makes it longer, so a whole conversation is one segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mypy_extensions import mypyc_attr

if TYPE_CHECKING:
    from tokencake.sim.calls import Call
    from tokencake.sim.extents import Extent
    from tokencake.sim.stretch import Stretch

Pieces = Sequence[tuple[str, int]]
"""Flat content: ``(content id, tokens)``; a content id is one token stream, read from its start."""

Span = tuple["Segment", int, int]
"""Blocks ``[lo, hi)`` of a chain, counted from the start of the chain, owned by one segment."""

BlockKey = tuple[tuple[str, int, int], ...]


class Segment:
    """Consecutive blocks ``[start, end)`` that follow one parent block.

    Attributes:
        parent: Segment that holds block ``start - 1``; None for the root.
        start: Index in the chain of the first owned block.
        end: Index after the last owned block; grows when a chain continues the segment.
        extents: GPU copies of these blocks, oldest first (kept by the KV pool).
        stretches: Blocks of this segment that the CPU tier holds, by first block (kept by the CPU tier).
        growers: Decoding calls whose next block to be hashed lies in this segment.
        live: Chains that pass through this segment.
        computed: Blocks below this index were computed at some time (for free recompute only).
    """

    __slots__ = (
        "branches",
        "computed",
        "end",
        "extents",
        "growers",
        "key",
        "live",
        "parent",
        "pieces",
        "start",
        "stretches",
    )

    def __init__(self, parent: Segment | None, start: int, end: int, pieces: Pieces, key: BlockKey):
        self.parent = parent
        self.start = start
        self.end = end
        self.pieces = pieces
        self.key = key
        self.branches: dict[int, dict[BlockKey, Segment]] = {}
        self.extents: list[Extent] = []
        self.stretches: list[Stretch] = []
        self.growers: list[Call] = []
        self.live = 0
        self.computed = start

    def __repr__(self) -> str:
        return f"Segment[{self.start}:{self.end}]"


@mypyc_attr(allow_interpreted_subclasses=True)
class Chain:
    """The KV blocks of one call's prompt and output, as spans of the content tree.

    Attributes:
        spans: Consecutive spans that cover all full blocks of the chain.
        blocks: Number of full blocks.
    """

    __slots__ = ("blocks", "spans")

    def __init__(self, spans: list[Span], blocks: int):
        self.spans = spans
        self.blocks = blocks

    def segment_at(self, block: int) -> Segment | None:
        """The segment that owns ``block``, or None past the last full block."""
        for segment, lo, hi in reversed(self.spans):
            if lo <= block < hi:
                return segment
        return None

    def computed_before(self, upto: int) -> int:
        """Leading blocks that were computed before; marks the leading ``upto`` as computed."""
        known = 0
        for segment, lo, hi in self.spans:
            if known == lo:
                known = min(max(segment.computed, lo), hi)
            if upto > lo:
                segment.computed = max(segment.computed, min(hi, upto))
        return known


@mypyc_attr(allow_interpreted_subclasses=True)
class ContentTree:
    """All content that a call still uses, or that a cache still holds.

    Args:
        block_size: Tokens in a KV block.
        keep: Forget nothing, so that it stays known what was ever computed.
    """

    def __init__(self, block_size: int, *, keep: bool = False):
        self.block_size = block_size
        self._keep = keep
        self.root = Segment(None, 0, 0, (), ())
        self.nothing = Chain([], 0)

    def chain(self, pieces: Pieces) -> Chain:
        """Find or create the segments of ``pieces`` and register one user on each.

        Args:
            pieces: Flat content of a call, prompt and output.

        Returns:
            The chain of full blocks. Give it back with :meth:`release`.
        """
        size = self.block_size
        total = sum(tokens for _, tokens in pieces) // size
        spans: list[Span] = []
        segment, depth = self.root, 0
        while depth < total:
            key = _block_key(pieces, depth * size, size)
            siblings = segment.branches.get(depth)
            child = siblings.get(key) if siblings is not None else None
            if child is None:
                child = Segment(segment, depth, total, pieces, key)
                segment.branches.setdefault(depth, {})[key] = child
                shared = total
            else:
                shared = min(_common_tokens(pieces, child.pieces) // size, total)
                if shared >= child.end and child.end not in child.branches and total > child.end:
                    child.end, child.pieces, shared = total, pieces, total
                shared = min(shared, child.end)
            child.live += 1
            spans.append((child, depth, shared))
            segment, depth = child, shared
        return Chain(spans, total)

    def retain(self, chain: Chain) -> None:
        """Register one more user of a chain."""
        for segment, _, _ in chain.spans:
            segment.live += 1

    def release(self, chain: Chain) -> None:
        """Drop one user of a chain; content that no cache holds either is forgotten."""
        for segment, _, _ in chain.spans:
            segment.live -= 1
        for segment, _, _ in reversed(chain.spans):
            if not segment.live:
                self.forget(segment)

    def forget(self, segment: Segment) -> None:
        """Remove ``segment`` and then its ancestors as long as nothing refers to them."""
        node: Segment | None = segment
        while node is not None and node.parent is not None:
            if self._keep or node.live or node.extents or node.stretches or node.branches:
                return
            parent = node.parent
            siblings = parent.branches.get(node.start)
            if siblings is None or siblings.get(node.key) is not node:
                return
            del siblings[node.key]
            if not siblings:
                del parent.branches[node.start]
            node = parent


def _block_key(pieces: Pieces, offset: int, size: int) -> BlockKey:
    """What fills the ``size`` tokens at ``offset``: ``(content id, position in it, tokens)``."""
    key: list[tuple[str, int, int]] = []
    position = 0
    end = offset + size
    for content, tokens in pieces:
        stop = position + tokens
        if stop > offset:
            start = max(position, offset)
            taken = min(stop, end) - start
            key.append((content, start - position, taken))
            if stop >= end:
                break
        position = stop
    return tuple(key)


def _common_tokens(a: Pieces, b: Pieces) -> int:
    """Tokens at the front of ``a`` and ``b`` that are certainly equal."""
    common = 0
    for left, right in zip(a, b, strict=False):
        if left == right:
            common += left[1]
            continue
        if left[0] == right[0]:
            common += min(left[1], right[1])
        return common
    return common
