"""GPU KV memory over time: running, stalled, cached, free."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tokencake.experiments.comparison import Comparison
from tokencake.experiments.plots.latency_cdf import load_title
from tokencake.experiments.plots.style import (
    BLANK,
    BUSY,
    PAGE_IN,
    PALE,
    WARM,
    legend,
    new_figure,
    panel_title,
    round_ticks,
    thousands,
)

Array = np.ndarray[Any, np.dtype[np.float64]]

# Bottom to top; dark is busy, orange is held idle, light is reusable, near white is empty.
_LAYERS = (("running", BUSY), ("stalled", WARM), ("cached", PALE), ("free", BLANK))
_BINS = 400


def time_mean(time_s: Array, value: Array, edges: Array) -> Array:
    """Mean over each bin of a step function that holds `value[i]` from `time_s[i]` until `time_s[i + 1]`.

    >>> time_mean(np.array([0.0, 1.0]), np.array([2.0, 4.0]), np.array([0.0, 2.0, 4.0])).tolist()
    [3.0, 4.0]
    """
    points = np.union1d(time_s, edges)
    index = np.clip(np.searchsorted(time_s, points, side="right") - 1, 0, None)
    area = np.concatenate([[0.0], np.cumsum(value[index][:-1] * np.diff(points))])
    at_edges = np.interp(edges, points, area)
    return np.asarray(np.diff(at_edges) / np.diff(edges))


def memory(comparison: Comparison) -> Figure | None:
    """One panel a policy, stacked shares of the pool, at the highest load and the first seed; same time axis."""
    chosen = _choose(comparison)
    tables = {series: comparison.runs[run].table("kv") for series, run in chosen.items()}
    tables = {series: table for series, table in tables.items() if len(table) > 1}
    if not tables:
        return None
    end = max(float(table["time_s"].iloc[-1]) for table in tables.values())
    columns = 2 if len(tables) == 4 else min(len(tables), 3)
    rows = -(-len(tables) // columns)
    figure, axes = new_figure(PAGE_IN, 0.5 + 1.55 * rows, columns=columns, rows=rows, sharex=True, sharey=True)
    for axis, (series, table) in zip(axes, tables.items(), strict=False):
        edges = np.linspace(0.0, float(table["time_s"].iloc[-1]), _BINS + 1)
        layers = _shares(table, edges)
        axis.stackplot(edges[:-1], layers, colors=[shade for _, shade in _LAYERS], linewidth=0, step="post")
        panel_title(axis, series, columns)
        axis.set_xlim(0, end)
        axis.set_ylim(0, 100)
        axis.grid(False)
        axis.tick_params(labelbottom=True)
    for axis in axes[len(tables) :]:
        axis.set_visible(False)
    for axis in axes[max(0, len(tables) - columns) : len(tables)]:
        axis.set_xlabel("time (s)")
        axis.xaxis.set_major_locator(round_ticks(10 - 2 * columns))
        thousands(axis.xaxis)
    for axis in axes[::columns]:
        axis.set_ylabel("GPU KV blocks (%)")
    handles = [Patch(facecolor=shade, edgecolor="#888888", linewidth=0.4) for _, shade in _LAYERS]
    title = _title(comparison, next(iter(chosen.values())))
    legend(figure, handles, [name for name, _ in _LAYERS], title=title)
    return figure


def _choose(comparison: Comparison) -> dict[str, int]:
    frame = comparison.frame[comparison.frame["kv_usage_mean"].notna()]  # where nothing ran, there is nothing to see
    if comparison.load is not None:
        frame = frame[frame[comparison.load] == frame[comparison.load].max()]
    frame = frame.sort_values(["seed", "run"], kind="stable")
    firsts = frame.groupby("series", sort=False)["run"].first()
    return {series: int(firsts[series]) for series in comparison.series if series in firsts.index}


def _title(comparison: Comparison, run: int) -> str:
    row = comparison.frame.iloc[run]
    parts = [load_title(comparison, row[comparison.load])] if comparison.load else []
    return ", ".join([*parts, f"seed {row['seed']}"])


def _shares(table: pd.DataFrame, edges: Array) -> list[Array]:
    """Per cent of the pool by layer and bin; until the first arrival all is free."""
    counts = table[["time_s", *(f"{name}_blocks" for name, _ in _LAYERS)]].to_numpy(dtype=float)
    empty = [0.0] * len(_LAYERS) + [counts[0, 1:].sum()]
    time, *layers = np.vstack([empty, counts]).T
    blocks = [time_mean(time, layer, edges) for layer in layers]
    total = np.maximum(np.sum(blocks, axis=0), 1.0)
    return [100.0 * layer / total for layer in blocks]
