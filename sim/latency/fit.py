"""Makes small tables from a function that is known at every point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

from tokencake.sim.latency.grid import Curve, Grid


def monotone_curve(time_ms: Callable[[int], float], last: int, tolerance: float) -> Curve:
    """Return a never decreasing curve from 1 to ``last``.

    Starts at powers of two and splits a piece at the worst of five probes until all of them are
    within ``tolerance`` (relative) of the function.
    """
    known: dict[int, float] = {}

    def at(x: int) -> float:
        if x not in known:
            known[x] = time_ms(x)
        return known[x]

    nodes = {last, *(1 << k for k in range(last.bit_length()))}
    pieces = list(pairwise(sorted(nodes)))
    while pieces:
        low, high = pieces.pop()
        probes = sorted({low + 1, (3 * low + high) // 4, (low + high) // 2, (low + 3 * high) // 4, high - 1})
        errors = [(_error(at, low, high, x), x) for x in probes if low < x < high]
        worst, split = max(errors, default=(0.0, low))
        if worst > tolerance:
            nodes.add(split)
            pieces += [(low, split), (split, high)]
    xs = sorted(nodes)
    return Curve(tuple(xs), tuple(row[0] for row in _monotone([[at(x)] for x in xs])))


def monotone_grid(time_ms: Callable[[int, int], float], rows: Sequence[int], contexts: Sequence[int]) -> Grid:
    """Return a grid that never decreases along either axis."""
    values = [[time_ms(row, context) for context in contexts] for row in rows]
    return Grid(tuple(rows), tuple(contexts), tuple(map(tuple, _monotone(values))))


def geometric(first: int, last: int, per_octave: int) -> list[int]:
    """Return whole numbers from ``first`` to ``last``, ``per_octave`` per doubling.

    >>> geometric(16, 64, 2)
    [16, 23, 32, 45, 64]
    """
    step = 2 ** (1 / per_octave)
    values = {last}
    value = float(first)
    while value < last:
        values.add(round(value))
        value *= step
    return sorted(values)


def _error(at: Callable[[int], float], low: int, high: int, x: int) -> float:
    line = at(low) + (at(high) - at(low)) * (x - low) / (high - low)
    return abs(line / at(x) - 1)


def _monotone(values: list[list[float]]) -> list[list[int]]:
    """Return nanoseconds that never decrease along rows or columns.

    Along a row the lower envelope: a kernel never costs more than the same kernel with more context.
    Along a column the mean of the envelopes above and below, because noise goes either way.
    """
    columns = list(zip(*(_running_min_from_end(row) for row in values), strict=True))
    above = [list(accumulate(column, max)) for column in columns]
    below = [_running_min_from_end(column) for column in columns]
    means = (
        [round((high + low) / 2 * 1e6) for high, low in zip(highs, lows, strict=True)]
        for highs, lows in zip(above, below, strict=True)
    )
    return [list(row) for row in zip(*means, strict=True)]


def _running_min_from_end(values: Sequence[float]) -> list[float]:
    return list(accumulate(reversed(values), min))[::-1]
