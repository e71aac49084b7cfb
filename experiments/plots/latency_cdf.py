"""Cumulative distribution of program latency, one curve a policy."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from tokencake.experiments.comparison import Comparison
from tokencake.experiments.keys import with_value
from tokencake.experiments.plots.refused import note_refused
from tokencake.experiments.plots.style import (
    COLUMN_IN,
    NOTHING,
    PAGE_IN,
    colour,
    legend,
    line,
    new_figure,
    panel_title,
    say,
    thousands,
)

Array = np.ndarray[Any, np.dtype[np.float64]]

_PANELS = 3
_MOST = 8  # policies in one panel
_COLUMNS = 4  # where each has its own
_WIDE_RANGE = 30.0  # where the longest latency is more than this many medians, the axis is logarithmic


def panel_values(comparison: Comparison, most: int = _PANELS) -> list[Any]:
    """The loads that get a panel: all of them, or the lowest, middle and highest."""
    if comparison.load is None:
        return [None]
    values = sorted(comparison.frame[comparison.load].unique())
    if len(values) <= most:
        return values
    picks = np.linspace(0, len(values) - 1, most).round().astype(int)
    return [values[i] for i in picks]


def load_title(comparison: Comparison, value: Any) -> str:
    """What a panel shows."""
    if comparison.load is None:
        return ""
    return with_value(comparison.load, value.item() if isinstance(value, np.number) else value)


def latency_cdf(comparison: Comparison) -> Figure:
    """Share of programs finished within a time, pooled over seeds; refused programs never finish and lower the top.

    A panel a load; of more policies than can be told apart, a panel each beside the first one, at the highest load.
    """
    many = len(comparison.series) > _MOST
    figure = _panel_each(comparison) if many else _panel_a_load(comparison)
    frame = comparison.frame
    if comparison.load is not None:
        frame = frame[frame[comparison.load].isin(panel_values(comparison)[-1 if many else 0 :])]
    note_refused(figure, comparison, frame)
    return figure


def _panel_a_load(comparison: Comparison) -> Figure:
    panels = panel_values(comparison)
    width = COLUMN_IN if len(panels) == 1 else PAGE_IN
    figure, axes = new_figure(width, 2.35, columns=len(panels), sharex=True, sharey=True)
    handles: dict[str, Artist] = {}
    shown = []
    ran = set()
    for axis, value in zip(axes, panels, strict=True):
        curves = _curves(comparison, value)
        ran |= {series for series, curve in curves.items() if len(curve.finished)}
        for index, (series, curve) in enumerate(curves.items()):
            (handles[series],) = _step(axis, curve, color=colour(index), linestyle=line(index))
        shown += list(curves.values())
        axis.set_title(load_title(comparison, value), loc="left")
        axis.set_xlabel("program latency (s)")
        if not any(len(curve.finished) for curve in curves.values()):
            say(axis, NOTHING)
    _finish(axes, shown)
    axes[0].set_ylabel("share of programs")
    names = [series if series in ran else f"{series} ({NOTHING})" for series in handles]
    legend(figure, list(handles.values()), names, title=_note(shown))
    return figure


def _panel_each(comparison: Comparison) -> Figure:
    value = panel_values(comparison)[-1]
    base, *others = comparison.series
    curves = _curves(comparison, value)
    rows = -(-len(others) // _COLUMNS)
    figure, axes = new_figure(PAGE_IN, 0.6 + 1.25 * rows, columns=_COLUMNS, rows=rows, sharex=True, sharey=True)
    for axis, series in zip(axes, others, strict=False):
        (own,) = _step(axis, curves[series], color=colour(0))
        (first,) = _step(axis, curves[base], color="#888888", linestyle=line(1), linewidth=1.0)
        panel_title(axis, series, _COLUMNS)
        if not len(curves[series].finished):
            say(axis, NOTHING)
    for axis in axes[len(others) :]:
        axis.set_visible(False)
    for axis in axes[len(others) - _COLUMNS : len(others)]:
        axis.set_xlabel("program latency (s)")
        axis.tick_params(labelbottom=True)
    for axis in axes[::_COLUMNS]:
        axis.set_ylabel("share of programs")
    _finish(axes, list(curves.values()))
    title = "; ".join(filter(None, (load_title(comparison, value), _note(list(curves.values())))))
    legend(figure, [own, first], ["the policy of the panel", base], title=title)
    return figure


@dataclass(frozen=True)
class _Curve:
    """Sorted latencies of the programs that finished, of so many."""

    finished: Array
    programs: int


def _curves(comparison: Comparison, value: Any) -> dict[str, _Curve]:
    frame = comparison.frame
    at_load = frame if value is None else frame[frame[comparison.load] == value]
    curves = {}
    for series in comparison.series:
        runs = at_load.loc[at_load["series"] == series, "run"]
        columns = [comparison.runs[int(i)].table("programs")["latency_s"].to_numpy(dtype=float) for i in runs]
        latencies = np.concatenate([np.empty(0), *columns])
        curves[series] = _Curve(np.sort(latencies[~np.isnan(latencies)]), len(latencies))
    return curves


def _step(axis: Axes, curve: _Curve, **look: Any) -> list[Line2D]:
    x = np.concatenate([curve.finished[:1], curve.finished])
    return axis.step(x, np.arange(len(x)) / max(curve.programs, 1), where="post", **look)


def _finish(axes: list[Axes], curves: list[_Curve]) -> None:
    """Axes that all panels share."""
    shown = [curve.finished for curve in curves if len(curve.finished)]
    axes[0].set_ylim(0, 1.02)
    if not shown:
        axes[0].set_xticks([])
        return
    if any(f[-1] > _WIDE_RANGE * np.median(f) for f in shown) and all(f[0] > 0 for f in shown):
        axes[0].set_xscale("log")
        axes[0].xaxis.set_major_locator(LogLocator(numticks=4))
    else:
        axes[0].set_xlim(left=0)
    thousands(axes[0].xaxis)


def _note(curves: list[_Curve]) -> str:
    refused = any(0 < len(curve.finished) < curve.programs for curve in curves)
    return "a curve ends below 1 where programs were refused" if refused else ""
