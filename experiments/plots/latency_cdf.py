"""Cumulative distribution of program latency, one curve a policy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tokencake.experiments.comparison import Comparison
from tokencake.experiments.keys import with_value
from tokencake.experiments.plots.style import COLUMN_IN, PAGE_IN, colour, legend, line, new_figure

_PANELS = 3
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
    """Share of programs finished within a time, pooled over seeds; refused programs never finish and lower the top."""
    panels = panel_values(comparison)
    width = COLUMN_IN if len(panels) == 1 else PAGE_IN
    figure, axes = new_figure(width, 2.35, columns=len(panels), sharex=True, sharey=True)
    shown: list[np.ndarray[Any, np.dtype[np.float64]]] = []
    for axis, value in zip(axes, panels, strict=True):
        frame = comparison.frame
        at_load = frame if value is None else frame[frame[comparison.load] == value]
        for index, series in enumerate(comparison.series):
            chosen = at_load.loc[at_load["series"] == series, "run"]
            latencies = _latencies(comparison, [int(i) for i in chosen])
            finished = np.sort(latencies[~np.isnan(latencies)])
            if not len(finished):
                continue
            shown.append(finished)
            share = np.arange(1, len(finished) + 1) / len(latencies)
            x, y = np.concatenate([[finished[0]], finished]), np.concatenate([[0.0], share])
            axis.step(x, y, where="post", color=colour(index), linestyle=line(index), label=series)
        axis.set_title(load_title(comparison, value), loc="left")
        axis.set_xlabel("program latency (s)")
        axis.set_ylim(0, 1.02)
    if any(f[-1] > _WIDE_RANGE * np.median(f) for f in shown) and all(f[0] > 0 for f in shown):
        axes[0].set_xscale("log")  # shared by all panels
    else:
        axes[0].set_xlim(left=0)
    axes[0].set_ylabel("share of programs")
    legend(figure, *axes[0].get_legend_handles_labels())
    return figure


def _latencies(comparison: Comparison, chosen: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    columns = [comparison.runs[i].table("programs")["latency_s"].to_numpy(dtype=float) for i in chosen]
    return np.concatenate(columns) if columns else np.empty(0)
