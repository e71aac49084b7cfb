"""Program latency against load: mean and 95th percentile, with intervals over seeds."""

import numpy as np
from matplotlib.figure import Figure

from tokencake.experiments.comparison import Comparison, aggregate
from tokencake.experiments.keys import title as key_title
from tokencake.experiments.plots.style import PAGE_IN, colour, legend, line, marker, new_figure

_SHOWN = (("latency_mean_s", "mean"), ("latency_p95_s", "95th percentile"))
_WIDE_RANGE = 8.0  # loads that span more than this factor are drawn on a logarithmic axis


def latency_load(comparison: Comparison) -> Figure | None:
    """One panel for the mean and one for the 95th percentile; None when fewer than two loads were run."""
    load = comparison.load
    if load is None or comparison.frame[load].nunique() < 2:
        return None
    figure, axes = new_figure(PAGE_IN, 2.5, columns=len(_SHOWN))
    table = aggregate(comparison)
    for axis, (metric, title) in zip(axes, _SHOWN, strict=True):
        for index, series in enumerate(comparison.series):
            rows = table[table["series"] == series].sort_values(load)
            x, mean = rows[load].to_numpy(dtype=float), rows[metric].to_numpy(dtype=float)
            low, high = rows[f"{metric}_low"].to_numpy(dtype=float), rows[f"{metric}_high"].to_numpy(dtype=float)
            axis.plot(x, mean, label=series, color=colour(index), linestyle=line(index), marker=marker(index))
            if not np.isnan(low).all():
                axis.fill_between(x, low, high, color=colour(index), alpha=0.15, linewidth=0)
        loads = np.sort(table[load].to_numpy(dtype=float))
        if loads[0] > 0 and loads[-1] / loads[0] > _WIDE_RANGE:
            axis.set_xscale("log")
        ticks = np.unique(loads)
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.set_xlabel(key_title(load))
        axis.set_ylabel("program latency (s)")
        axis.set_title(title, loc="left")
        axis.set_ylim(bottom=0)
    legend(figure, *axes[0].get_legend_handles_labels())
    return figure
