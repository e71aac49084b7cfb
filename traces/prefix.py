"""How much of a prompt has been seen before: an index of flat pieces by common prefix.

This is a cache of infinite size, in tokens: what an importer must preserve and what
:func:`tokencake.traces.inspection.inspect_trace` reports.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokencake.traces.resolve import FlatPiece


class _Node:
    """A point in a token sequence; edges are streams that go on from here."""

    __slots__ = ("edges",)

    def __init__(self) -> None:
        self.edges: dict[str, _Edge] = {}


class _Edge:
    """A stream's tokens after a node: how many are known, and where something else follows."""

    __slots__ = ("known", "nodes")

    def __init__(self) -> None:
        self.known = 0
        self.nodes: dict[int, _Node] = {}


class PrefixIndex:
    """Sequences of pieces, compared token by token without any tokens.

    >>> index = PrefixIndex()
    >>> index.add([("a", 100), ("b", 50)])
    >>> index.common([("a", 100), ("b", 80)]), index.common([("a", 60), ("c", 9)])
    (150, 60)
    """

    def __init__(self) -> None:
        self._root = _Node()

    def add(self, pieces: Sequence[FlatPiece]) -> None:
        """Enter a sequence."""
        node = self._root
        for content, tokens in pieces:
            edge = node.edges.get(content)
            if edge is None:
                edge = node.edges[content] = _Edge()
            edge.known = max(edge.known, tokens)
            following = edge.nodes.get(tokens)
            if following is None:
                following = edge.nodes[tokens] = _Node()
            node = following

    def common(self, pieces: Sequence[FlatPiece]) -> int:
        """Return the length, in tokens, of the longest prefix that some entered sequence has."""
        node = self._root
        total = 0
        for content, tokens in pieces:
            edge = node.edges.get(content)
            if edge is None:
                return total
            total += min(tokens, edge.known)
            following = edge.nodes.get(tokens)
            if following is None:
                return total
            node = following
        return total
