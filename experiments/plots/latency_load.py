"""Program latency against load: mean and 95th percentile, with intervals over seeds."""

from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from tokencake.experiments.comparison import Comparison, aggregate
from tokencake.experiments.keys import title as key_title
from tokencake.experiments.plots import intervals
from tokencake.experiments.plots.refused import note_refused
from tokencake.experiments.plots.style import NOTHING, PAGE_IN, colour, legend, line, marker, new_figure, thousands

_SHOWN = (("latency_mean_s", "mean"), ("latency_p95_s", "95th percentile"))
_WIDE_RANGE = 8.0  # loads that span more than this factor are drawn on a logarithmic axis
_MOST_BANDS = 8  # of more policies nobody could tell whose band it is
_TALLEST = 2.5  # times the highest mean: bands that go further are cut
_HEADROOM = 1.06
_CHARACTER = 0.019  # width of a tick label's character, as a part of the axis


def latency_load(comparison: Comparison) -> Figure | None:
    """One panel for the mean and one for the 95th percentile; None if at fewer than two loads programs finished.

    Bands are 95 % intervals over seeds, where there are several and not too many policies. Points for which some
    programs were refused are hollow, and a line joins those that are of the same programs. A load at which a run
    finished no program has no point.
    """
    load = comparison.load
    if load is None:
        return None
    table = _points(comparison, load)
    whole = bool(table["latency_mean_s"].notna().all())
    table = table[table["latency_mean_s"].notna()]
    if table[load].nunique() < 2:
        return None
    figure, axes = new_figure(PAGE_IN, 2.5, columns=len(_SHOWN))
    for axis, (metric, title) in zip(axes, _SHOWN, strict=True):
        for index, series in enumerate(comparison.series):
            rows = table[table["series"] == series].sort_values(load)
            for _, alike in groupby(rows.to_dict("records"), key=itemgetter("left_out")):
                _line(axis, pd.DataFrame(list(alike)), load, metric, index, len(comparison.series) <= _MOST_BANDS)
        _loads(axis, np.unique(table[load].to_numpy(dtype=float)))
        _height(axis, table, load, metric)
        axis.set_xlabel(key_title(load))
        axis.set_ylabel("program latency (s)")
        axis.set_title(title, loc="left")
    _legend(figure, comparison, table, bands=bool(axes[0].collections))
    more = "A line joins points of the same programs." + ("" if whole else " Where a run finished none is no point.")
    note_refused(figure, comparison, comparison.frame, more)
    return figure


def _points(comparison: Comparison, load: str) -> pd.DataFrame:
    """Means and intervals by policy and load, with `left_out`: which programs were refused in the runs of each."""
    table = aggregate(comparison)
    left_out = comparison.frame.groupby(["series", load])["left_out"].agg(frozenset)
    return table.assign(left_out=[left_out[point] for point in zip(table["series"], table[load], strict=True)])


def _look(index: int) -> dict[str, Any]:
    return {"color": colour(index), "linestyle": line(index), "marker": marker(index)}


def _line(axis: Axes, rows: pd.DataFrame, load: str, metric: str, index: int, bands: bool) -> None:
    """Points of one policy that are of the same programs, with their intervals if asked for."""
    look = _look(index) | ({"markerfacecolor": "white"} if rows["refused_programs"].any() else {})
    axis.plot(rows[load], rows[metric], **look)
    low, high = rows[f"{metric}_low"], rows[f"{metric}_high"]
    if not bands or low.isna().all():
        return
    if len(rows) > 1:
        axis.fill_between(rows[load], low, high, color=colour(index), alpha=0.15, linewidth=0)
    else:
        axis.vlines(rows[load], low, high, color=colour(index), alpha=0.3, linewidth=3.0)


def _legend(figure: Figure, comparison: Comparison, table: pd.DataFrame, *, bands: bool) -> None:
    """What is drawn; a policy without a point is named and has no line."""
    handles: dict[str, Artist] = {}
    for index, series in enumerate(comparison.series):
        if (table["series"] == series).any():
            handles[series] = Line2D([], [], **_look(index))
        else:
            handles[f"{series} ({NOTHING})"] = Line2D([], [], linestyle="")
    if bands:
        handles[intervals.LABEL] = Patch(color="#888888", alpha=0.3, linewidth=0)
    if table["refused_programs"].any():
        handles["some programs refused"] = Line2D(
            [], [], color="#888888", marker="o", linestyle="", markerfacecolor="white"
        )
    legend(figure, list(handles.values()), list(handles))


def _height(axis: Axes, table: pd.DataFrame, load: str, metric: str) -> None:
    """From 0 to the bands' top; where it would squeeze the means, the top is a number."""
    thousands(axis.yaxis)
    axis.set_ylim(bottom=0)
    mean = table[metric].max()
    if not mean > 0:
        return
    highs = table.groupby(load)[f"{metric}_high"].max() if axis.collections else pd.Series(dtype=float)
    top = min(_HEADROOM * max([mean, *highs.dropna()]), _TALLEST * mean)
    axis.set_ylim(top=top)
    sides = {highs.index.min(): "left", highs.index.max(): "right"}
    for x, high in highs[highs > top].items():
        side = sides.get(x, "center")
        axis.annotate(f"{high:,.0f} \N{UPWARDS ARROW}", (x, top), ha=side, va="top", fontsize=7)


def _loads(axis: Axes, loads: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    """A tick a load that was run; numbers where they do not run into each other, the first and the last in any case."""
    if loads[0] > 0 and loads[-1] / loads[0] > _WIDE_RANGE:
        axis.set_xscale("log")
    place = np.log(loads) if axis.get_xscale() == "log" else loads
    place = (place - place[0]) / (place[-1] - place[0])
    labels = [f"{load:,.12g}" for load in loads]
    half = [_CHARACTER * (len(label) + 1) / 2 for label in labels]
    free = half[0]
    for index in range(1, len(labels) - 1):
        if place[index] - half[index] < free or place[index] + half[index] > 1 - half[-1]:
            labels[index] = ""
        else:
            free = place[index] + half[index]
    axis.set_xticks(loads, labels)
    axis.minorticks_off()
