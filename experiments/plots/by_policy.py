"""Many policies at one load: how each compares with the first one, and where a call's seconds go."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tokencake.experiments.comparison import Comparison, samples
from tokencake.experiments.metrics import Interval, mean_interval, relative_change
from tokencake.experiments.plots import intervals
from tokencake.experiments.plots.latency_cdf import load_title
from tokencake.experiments.plots.refused import note_refused
from tokencake.experiments.plots.style import BUSY, NOTHING, PAGE_IN, PALE, WARM, colour, folded, lines, new_figure, say
from tokencake.policies.pages import BOUNDS

_RATIOS = (("latency_mean_s", "mean latency"), ("latency_p95_s", "95th percentile"))
_FILLS: dict[str, dict[str, Any]] = {
    "queue": {"color": BUSY},
    "queue again": {"facecolor": "white", "edgecolor": BUSY, "hatch": "//////", "linewidth": 0.5},
    "prefill and loads": {"color": WARM},
    "decode": {"color": PALE},
}
_FAR = 2.5  # times the middle ratio, and times 1: slower ones are numbers at the edge, or they would squeeze all others
_LEAST_REACH = 0.05  # the axis goes at least this far to both sides of 1, or nothing would look like something by zoom
_ROW_IN = 0.165  # height of a row, in inches
_NAME, _AXIS = 34, 24  # characters of a line beside and below the axes


def by_policy(comparison: Comparison) -> Figure | None:
    """A row a policy, the fastest on top, at the highest load; None with one policy.

    Left, mean and 95th percentile of program latency over those of the first policy: ratios of means over common seeds
    with their 95 % intervals (none with one seed). Right, what a call waited and took, and the interval of the sum.
    Policies that know the future have hollow markers. An interval that would squeeze all others ends in an arrow and
    the value that it goes on to, and a policy that is many times slower is a number at the edge. One that cannot be
    compared has no point, and its name says why.
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
    first = {series: interval.mean for series, interval in ratios[_RATIOS[0][0]].items()}
    order = sorted(groups, key=lambda series: math.inf if math.isnan(first[series]) else first[series], reverse=True)
    names = [folded(series + _why_not(groups[series], first[series]), _NAME) for series in order]
    relative = folded(f"relative to {base}", _AXIS)
    height = 0.95 + _ROW_IN * (len(order) * max(map(lines, names)) + lines(relative) - 1 + (load is not None))
    figure, axes = new_figure(PAGE_IN, height, columns=3, sharey=True)
    hollow = [comparison.runs[int(groups[s]["run"].iloc[0])].config["policy"]["name"] in BOUNDS for s in order]
    for axis, (metric, name) in zip(axes, _RATIOS, strict=False):
        if any(math.isfinite(ratio.mean) for ratio in ratios[metric].values()):
            _dots(axis, [ratios[metric][series] for series in order], hollow)
        else:
            _empty(axis, NOTHING if frame["latency_mean_s"].isna().all() else "nothing to compare")
        axis.set_title(name, loc="left")
        axis.set_xlabel(relative)
    axes[0].set_yticks(range(len(order)), names)
    axes[0].set_ylim(-0.7, len(order) - 0.3)
    slow = _FAR * _middle(list(first.values()))
    wholes = [_whole(groups[series]) for series in order]
    _seconds(axes[2], [groups[series] for series in order], wholes, [first[series] > slow for series in order])
    for axis in axes[1:]:
        axis.tick_params(left=False)
    scatter = any(each.low < each.high for each in (*wholes, *ratios[_RATIOS[0][0]].values()))
    title = "" if load is None else load_title(comparison, load)
    _legend(figure, axes[2].get_legend_handles_labels(), scatter=scatter, hollow=any(hollow), title=title)
    note_refused(figure, comparison, frame)
    return figure


def _legend(figure: Figure, parts: tuple[list[Artist], list[Any]], *, scatter: bool, hollow: bool, title: str) -> None:
    """What is drawn, in one row below the load."""
    handles, labels = parts
    if scatter:
        handles.insert(0, Line2D([], [], color="black", linewidth=0.9))
        labels.insert(0, intervals.LABEL)
    if hollow:
        handles.insert(0, Line2D([], [], marker="o", linestyle="", color=colour(0), markerfacecolor="white"))
        labels.insert(0, "knows the future")
    heading: dict[str, Any] = {"title": title, "title_fontsize": 8} if title else {}
    figure.legend(handles, labels, loc="outside upper center", ncols=len(handles), handlelength=1.0, **heading)


def _ratio(group: pd.DataFrame, base: pd.DataFrame, metric: str) -> Interval:
    """A metric over that of the base, on common seeds; a ratio of means. NaN where there is nothing to compare."""
    change = relative_change(samples(group, metric), samples(base, metric))
    if change is None:
        return mean_interval([math.nan])
    return Interval(1 + change.mean, 1 + change.low, 1 + change.high, change.count)


def _why_not(group: pd.DataFrame, ratio: float) -> str:
    if not math.isnan(ratio):
        return ""
    return " (no program finished)" if group["latency_mean_s"].isna().all() else " (not comparable)"


def _middle(means: list[float]) -> float:
    """The median ratio, and 1 at least."""
    return median([max(mean, 1.0) for mean in means if not math.isnan(mean)] or [1.0])


def _dots(axis: Axes, ratios: list[Interval], hollow: list[bool]) -> None:
    far = _FAR * _middle([ratio.mean for ratio in ratios])
    near = [ratio for ratio in ratios if ratio.mean <= far]
    axis.axvline(1.0, color="#888888", linewidth=0.8)
    intervals.fit(axis, [1 - _LEAST_REACH, *(ratio.mean for ratio in near), 1 + _LEAST_REACH], near)
    for y, (ratio, bound) in enumerate(zip(ratios, hollow, strict=True)):
        if ratio.mean > far:
            intervals.beyond(axis, y, ratio)
            continue
        intervals.interval(axis, y, ratio)
        axis.plot(ratio.mean, y, "o", color=colour(0), markerfacecolor="white" if bound else colour(0))


def _empty(axis: Axes, why: str) -> None:
    """Nothing to draw, and no ticks that would be of nothing."""
    say(axis, why)
    axis.set_xticks([])


def _whole(group: pd.DataFrame) -> Interval:
    """What a call waited and took."""
    return mean_interval(group[["queue_mean_s", "prefill_mean_s", "decode_mean_s"]].sum(axis=1, skipna=False).tolist())


def _parts(group: pd.DataFrame) -> dict[str, float]:
    """Of what that consists: a preempted call is queued again, which is no prefill and no decode."""
    of = {name: float(group[f"{name}_mean_s"].mean(skipna=False)) for name in ("queue", "prefill", "decode")}
    again = {name: float(group[f"{name}_preempted_mean_s"].mean(skipna=False)) for name in ("prefill", "decode")}
    prefill, decode = (of[name] - again[name] for name in again)
    values = of["queue"], sum(again.values()), prefill, decode
    return {part: 0.0 if math.isnan(value) else value for part, value in zip(_FILLS, values, strict=True)}


def _seconds(axis: Axes, groups: list[pd.DataFrame], wholes: list[Interval], far: list[bool]) -> None:
    left = [0.0] * len(groups)
    parts = [_parts(group) for group in groups]
    for part, fill in _FILLS.items():
        width = [own[part] for own in parts]
        axis.barh(range(len(groups)), width, left=left, height=0.7, label=part, **fill)
        left = [a + b for a, b in zip(left, width, strict=True)]
    if any(left):
        near = [whole for whole, beyond in zip(wholes, far, strict=True) if not beyond]
        longest = max((total for total, beyond in zip(left, far, strict=True) if not beyond), default=0.0)
        intervals.fit(axis, [0.0, longest or 1.0], near, least=0.0)
        for y, (whole, beyond) in enumerate(zip(wholes, far, strict=True)):
            (intervals.beyond if beyond else intervals.interval)(axis, y, whole)
    else:
        _empty(axis, "no call finished")
    axis.axvline(0.0, color="black", linewidth=0.8)
    axis.set_title("where a call's time goes", loc="left")
    axis.set_xlabel("seconds per call")
