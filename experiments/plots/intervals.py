"""Intervals in rows: whole where that leaves room for the points, else cut, with the number that they go on to."""

import math
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from tokencake.experiments.metrics import Interval
from tokencake.experiments.plots.style import round_ticks

LABEL = "95 % interval"
_NEAR = 0.5  # ends of intervals that are no further beyond the points than this part of the points' width move the axis
_MARGIN, _ROOM = 0.06, 0.4  # beside what is drawn, as a part of its width: without numbers, and with


def fit(axis: Axes, points: Iterable[float], intervals: Sequence[Interval], *, least: float = -math.inf) -> None:
    """Choose an axis that holds all points and the ends of intervals near them, and has room to write the others.

    Args:
        axis: Its limits and ticks are set; `interval` draws into them.
        points: What must be seen.
        intervals: Their ends may lie beyond; NaN where one is not known.
        least: The axis begins no lower: there is nothing below.
    """
    whole = list(points)
    low, high = min(whole), max(whole)
    reach = _NEAR * (high - low)
    lows = [each.low for each in intervals if not math.isnan(each.low)]
    highs = [each.high for each in intervals if not math.isnan(each.high)]
    first = min([low, *(end for end in lows if end >= max(low - reach, least))])
    last = max([high, *(end for end in highs if end <= high + reach)])
    left = _ROOM if any(end < first for end in lows) else _MARGIN if first > least else 0.0
    right = _ROOM if any(end > last for end in highs) else _MARGIN
    axis.set_xlim(first - left * (last - first), last + right * (last - first))
    axis.set_xticks([tick for tick in round_ticks().tick_values(first, last) if first <= tick <= last])


def interval(axis: Axes, y: float, shown: Interval) -> None:
    """A line from end to end; where an end lies beyond the axis, an arrow and its value. Nothing without a length."""
    if not shown.low < shown.high:
        return
    first, last = axis.get_xlim()
    outline = [withStroke(linewidth=2.2, foreground="white")]  # seen on dark bars, too
    ends = [max(shown.low, first), min(shown.high, last)]
    axis.plot(ends, [y, y], color="black", linewidth=0.9, solid_capstyle="butt", path_effects=outline)
    if shown.low < first:
        _write(axis, y, f"\N{LEFTWARDS ARROW} {_number(shown.low)}", left=True)
    if shown.high > last:
        _write(axis, y, f"{_number(shown.high)} \N{RIGHTWARDS ARROW}")


def beyond(axis: Axes, y: float, shown: Interval) -> None:
    """What lies to the right of the axis as a whole, as a number with half of its interval."""
    half = f" ±{_number(shown.half)}" if shown.half > shown.mean / 1000 else ""
    _write(axis, y, f"{_number(shown.mean)}{half} \N{RIGHTWARDS ARROW}")


def _number(value: float) -> str:
    text = f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2f}"
    return text.replace("-", "\N{MINUS SIGN}")


def _write(axis: Axes, y: float, text: str, *, left: bool = False) -> None:
    axis.text(
        0.008 if left else 1.0,
        y,
        text,
        transform=axis.get_yaxis_transform(),
        ha="left" if left else "right",
        va="center",
        fontsize=7,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
    )
