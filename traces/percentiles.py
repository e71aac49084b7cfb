"""Percentiles of a sample."""

from __future__ import annotations

from collections.abc import Sequence


def percentile(ordered: Sequence[float], q: float) -> float:
    """Return a percentile by linear interpolation between order statistics (NumPy's default).

    >>> percentile([1.0, 2.0, 3.0, 4.0], 50)
    2.5

    Args:
        ordered: Values in ascending order, at least one.
        q: Between 0 and 100.
    """
    place = (len(ordered) - 1) * q / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
