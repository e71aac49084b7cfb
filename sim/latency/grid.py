"""Measured times over one axis (`Curve`) or two (`Grid`), in exact integer arithmetic."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

_PS_PER_NS: Final = 1000


@dataclass(frozen=True, slots=True)
class Curve:
    """Time over one axis: strictly increasing whole ``xs``, never decreasing ``ns`` (nanoseconds)."""

    xs: tuple[int, ...]
    ns: tuple[int, ...]

    def __post_init__(self) -> None:
        _check_axis(self.xs)
        _check_row(self.ns, len(self.xs))

    def ps(self, x: int) -> int:
        """Return the time at ``x`` >= 0 in picoseconds; 0 at 0, linear beyond the last node."""
        if x < self.xs[0]:
            return self.ns[0] * _PS_PER_NS * x // self.xs[0]
        i = min(bisect_right(self.xs, x), len(self.xs) - 1)
        return _between(self.xs[i - 1], self.ns[i - 1], self.xs[i], self.ns[i], x)


@dataclass(frozen=True, slots=True)
class Grid:
    """Time over two axes; ``ns[i][j]`` (nanoseconds) belongs to ``rows[i]`` and ``contexts[j]``.

    Axes increase strictly and the times never decrease along either.
    """

    rows: tuple[int, ...]
    contexts: tuple[int, ...]
    ns: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        _check_axis(self.rows)
        _check_axis(self.contexts)
        if len(self.ns) != len(self.rows):
            raise ValueError(f"ns must have {len(self.rows)} rows, got {len(self.ns)}")
        for row in self.ns:
            _check_row(row, len(self.contexts))
        for column in zip(*self.ns, strict=True):
            _check_row(column, len(self.rows))

    def row_ps(self, row: int) -> list[int]:
        """Return the times of one row at every node of the context axis, in picoseconds."""
        i = max(1, min(bisect_right(self.rows, row), len(self.rows) - 1))
        width, offset = self.rows[i] - self.rows[i - 1], row - self.rows[i - 1]
        ends = zip(self.ns[i - 1], self.ns[i], strict=True)
        # As _between() does, written out: lines are many, and a line has a node for every context.
        line = [low * _PS_PER_NS + (high - low) * _PS_PER_NS * offset // width for low, high in ends]
        if 0 <= offset <= width:
            return line
        # Outside the rows two columns may cross; the running maximum keeps the line monotone.
        return list(accumulate((max(0, ps) for ps in line), max))


def _between(x0: int, ns0: int, x1: int, ns1: int, x: int) -> int:
    """Return picoseconds at ``x`` on the line through two nodes, rounded down."""
    return ns0 * _PS_PER_NS + (ns1 - ns0) * _PS_PER_NS * (x - x0) // (x1 - x0)


def _check_axis(axis: Sequence[int]) -> None:
    if len(axis) < 2:
        raise ValueError(f"an axis must have at least 2 nodes, got {len(axis)}")
    for low, high in pairwise((-1, *axis)):
        if type(high) is not int or high <= low:
            raise ValueError(f"an axis must hold increasing whole numbers >= 0, got {high!r} after {low}")


def _check_row(row: Sequence[int], length: int) -> None:
    if len(row) != length:
        raise ValueError(f"a row must have {length} values, got {len(row)}")
    for low, high in pairwise((0, *row)):
        if type(high) is not int or high < low:
            raise ValueError(f"times must be whole nanoseconds that never decrease, got {high!r} after {low}")
