"""Program latency against load: mean and 95th percentile, with intervals over seeds."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tokencake.experiments.comparison import Comparison, aggregate
from tokencake.experiments.keys import title as key_title
from tokencake.experiments.plots import intervals
from tokencake.experiments.plots.refused import note_refused
from tokencake.experiments.plots.style import PAGE_IN, colour, legend, line, marker, new_figure, thousands

_SHOWN = (("latency_mean_s", "mean"), ("latency_p95_s", "95th percentile"))
_WIDE_RANGE = 8.0  # loads that span more than this factor are drawn on a logarithmic axis
_MOST_BANDS = 8  # of more policies nobody could tell whose band it is
_TALLEST = 2.5  # times the highest mean: bands that go further are cut
_HEADROOM = 1.06
_CHARACTER = 0.019  # width of a tick label's character, as a part of the axis


def latency_load(comparison: Comparison) -> Figure | None:
    """One panel for the mean and one for the 95th percentile; None when fewer than two loads were run.

    Bands are 95 % intervals over seeds, where there are several and not too many policies. A load at which a draw
    finished no program has no point.
    """
    load = comparison.load
    if load is None or comparison.frame[load].nunique() < 2:
        return None
    figure, axes = new_figure(PAGE_IN, 2.5, columns=len(_SHOWN))
    table = aggregate(comparison)
    handles: dict[str, Artist] = {}
    for axis, (metric, title) in zip(axes, _SHOWN, strict=True):
        for index, series in enumerate(comparison.series):
            rows = table[table["series"] == series].sort_values(load)
            x, mean = rows[load].to_numpy(dtype=float), rows[metric].to_numpy(dtype=float)
            low, high = rows[f"{metric}_low"].to_numpy(dtype=float), rows[f"{metric}_high"].to_numpy(dtype=float)
            (handles[series],) = axis.plot(x, mean, color=colour(index), linestyle=line(index), marker=marker(index))
            if not np.isnan(low).all() and len(comparison.series) <= _MOST_BANDS:
                axis.fill_between(x, low, high, color=colour(index), alpha=0.15, linewidth=0)
        _loads(axis, np.unique(table[load].to_numpy(dtype=float)))
        _height(axis, table, load, metric)
        axis.set_xlabel(key_title(load))
        axis.set_ylabel("program latency (s)")
        axis.set_title(title, loc="left")
    if axes[0].collections:
        handles[intervals.LABEL] = Patch(color="#888888", alpha=0.3, linewidth=0)
    missing = table[[metric for metric, _ in _SHOWN]].isna().any(axis=None)
    note = "no point where a draw finished no program" if missing else ""
    legend(figure, list(handles.values()), list(handles), title=note)
    note_refused(figure, comparison, comparison.frame)
    return figure


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
