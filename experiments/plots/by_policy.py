"""Many policies at one load: how each compares with the first one, and where a call's seconds go."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from tokencake.experiments.comparison import Comparison, samples
from tokencake.experiments.metrics import Interval, mean_interval, relative_change
from tokencake.experiments.plots.latency_cdf import load_title
from tokencake.experiments.plots.style import PAGE_IN, colour, folded, lines, new_figure
from tokencake.policies.pages import BOUNDS

_RATIOS = (("latency_mean_s", "mean latency"), ("latency_p95_s", "95th percentile"))
_PARTS = (
    ("queue_mean_s", "queue", "#3d5166"),
    ("prefill_mean_s", "prefill and loads", "#E69F00"),
    ("decode_mean_s", "decode", "#b9cfe0"),
)
_FAR = 2.5  # a policy this many times as slow as the first is written at the edge: it would squeeze all others
_LEAST_REACH = 0.05  # the axis goes at least this far to both sides of 1, or nothing would look like something by zoom
_ROW_IN = 0.165  # height of a row, in inches
_NAME, _AXIS = 34, 24  # characters of a line beside and below the axes


def by_policy(comparison: Comparison) -> Figure | None:
    """A row a policy, the fastest on top, at the highest load; None with one policy.

    Left, mean and 95th percentile of program latency over those of the first policy: ratios of means over common seeds
    with their 95 % intervals (none with one seed). Right, what a call waited and took, and the interval of the sum.
    Policies that know the future have hollow markers. The means choose the axis: an interval may go beyond it, and
    a policy that is many times slower is a number at its edge.
    """
    if len(comparison.series) < 2:
        return None
    frame = comparison.frame
    load = None if comparison.load is None else frame[comparison.load].max()
    frame = frame if load is None else frame[frame[comparison.load] == load]
    groups = {series: frame[frame["series"] == series] for series in comparison.series}
    groups = {series: group for series, group in groups.items() if len(group)}
    base = next(iter(groups))
    ratios = {
        metric: {series: _ratio(group, groups[base], metric) for series, group in groups.items()}
        for metric, _ in _RATIOS
    }
    first = ratios[_RATIOS[0][0]]
    order = sorted(groups, key=lambda series: first[series].mean, reverse=True)
    bounds = [comparison.runs[int(groups[s]["run"].iloc[0])].config["policy"]["name"] in BOUNDS for s in order]
    names = [folded(series, _NAME) for series in order]
    relative = folded(f"relative to {base}", _AXIS)
    height = 0.85 + _ROW_IN * (len(order) * max(map(lines, names)) + lines(relative) - 1)
    figure, axes = new_figure(PAGE_IN, height, columns=3, sharey=True)
    for axis, (metric, title) in zip(axes, _RATIOS, strict=False):
        _dots(axis, [ratios[metric][series] for series in order], bounds)
        axis.set_title(title, loc="left")
        axis.set_xlabel(relative)
    axes[0].set_yticks(range(len(order)), names)
    axes[0].set_ylim(-0.7, len(order) - 0.3)
    _seconds(axes[2], [groups[series] for series in order], [first[series].mean > _FAR for series in order])
    handles, labels = axes[2].get_legend_handles_labels()
    if any(bounds):
        handles.insert(0, Line2D([], [], marker="o", linestyle="", color=colour(0), markerfacecolor="white"))
        labels.insert(0, "knows the future")
    figure.legend(handles, labels, loc="outside upper right", ncols=len(handles), handlelength=1.0)
    if load is not None:
        figure.suptitle(load_title(comparison, load), fontsize=8, x=0.02, horizontalalignment="left")
    return figure


def _ratio(group: pd.DataFrame, base: pd.DataFrame, metric: str) -> Interval:
    """A metric over that of the base, on common seeds; a ratio of means."""
    change = relative_change(samples(group, metric), samples(base, metric))
    if change is None:
        return mean_interval([float("nan")])
    return Interval(1 + change.mean, 1 + change.low, 1 + change.high, change.count)


def _dots(axis: Axes, intervals: list[Interval], hollow: list[bool]) -> None:
    axis.axvline(1.0, color="black", linewidth=0.8)
    shown = [interval.mean for interval in intervals if interval.mean <= _FAR]
    low, high = min(shown), max(shown)
    margin = 0.1 * (high - low)
    axis.set_xlim(min(low, 1 - _LEAST_REACH) - margin, max(high, 1 + _LEAST_REACH) + margin)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    for y, (interval, bound) in enumerate(zip(intervals, hollow, strict=True)):
        if interval.mean > _FAR:
            _at_the_edge(axis, y, interval.mean)
            continue
        if interval.low < interval.high:
            axis.plot([interval.low, interval.high], [y, y], color=colour(0), linewidth=1.2)
        axis.plot(interval.mean, y, "o", color=colour(0), markerfacecolor="white" if bound else colour(0))


def _seconds(axis: Axes, groups: list[pd.DataFrame], far: list[bool]) -> None:
    left = [0.0] * len(groups)
    for metric, label, shade in _PARTS:
        width = [float(group[metric].mean()) for group in groups]
        axis.barh(range(len(groups)), width, left=left, height=0.7, color=shade, label=label)
        left = [a + b for a, b in zip(left, width, strict=True)]
    for y, (group, beyond) in enumerate(zip(groups, far, strict=True)):
        whole = mean_interval(group[[metric for metric, _, _ in _PARTS]].sum(axis=1).tolist())
        if whole.low < whole.high and not beyond:
            axis.plot([whole.low, whole.high], [y, y], color="black", linewidth=0.8)
    axis.set_xlim(0, 1.1 * max(total for total, beyond in zip(left, far, strict=True) if not beyond))
    for y, (total, beyond) in enumerate(zip(left, far, strict=True)):
        if beyond:
            _at_the_edge(axis, y, total)
    axis.set_title("where a call's time goes", loc="left")
    axis.set_xlabel("seconds per call")


def _at_the_edge(axis: Axes, y: float, value: float) -> None:
    """What lies beyond the axis, as a number."""
    text = f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    place = axis.get_yaxis_transform()
    axis.text(0.99, y, f"{text} \N{RIGHTWARDS ARROW}", transform=place, ha="right", va="center", fontsize=7, bbox=box)
