"""Predicted against measured, a point a policy and setting."""

from collections.abc import Sequence
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tokencake.experiments.agreement import Pair
from tokencake.experiments.plots.style import PAGE_IN, colour, legend, marker, new_figure

_PANELS = (
    ("program_latency_mean_s", "mean program latency"),
    ("makespan_s", "makespan"),
    ("ttft_mean_s", "mean TTFT"),
)
_BAND = 0.1


def agreement(pairs: Sequence[Pair]) -> Figure:
    """One panel a metric: the diagonal is agreement, the grey band is 10 %, bars are ranges of repeats and draws."""
    figure, axes = new_figure(PAGE_IN, 3.0, columns=len(_PANELS))
    settings = list(dict.fromkeys(pair.setting for pair in pairs))
    policies = list(dict.fromkeys(pair.policy for pair in pairs))
    for axis, (metric, title) in zip(axes, _PANELS, strict=True):
        limits = _diagonal(axis, pairs, metric)
        for pair in pairs:
            predicted, measured = pair.values(metric)
            axis.errorbar(
                fmean(measured),
                fmean(predicted),
                xerr=_range(measured),
                yerr=_range(predicted),
                color=colour(policies.index(pair.policy)),
                marker=marker(settings.index(pair.setting)),
                linestyle="none",
                elinewidth=0.8,
                label=pair.policy if pair.setting == settings[0] else None,
            )
        axis.set_xlim(limits)
        axis.set_ylim(limits)
        axis.set_aspect("equal")
        axis.set_title(title, loc="left")
        axis.set_xlabel("measured (s)")
    axes[0].set_ylabel("predicted (s)")
    handles, labels = axes[0].get_legend_handles_labels()
    if len(settings) > 1:
        for index, setting in enumerate(settings):
            handles.append(Line2D([], [], color="#888888", marker=marker(index), linestyle="none"))
            labels.append(setting)
    legend(figure, handles, labels)
    return figure


def _range(values: Sequence[float]) -> list[list[float]]:
    """How far values go below and above their mean, which is rounded."""
    mean = fmean(values)
    return [[max(0.0, mean - min(values))], [max(0.0, max(values) - mean)]]


def _diagonal(axis: Axes, pairs: Sequence[Pair], metric: str) -> tuple[float, float]:
    values = [value for pair in pairs for side in pair.values(metric) for value in side]
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.1 * high or 1.0
    ends = (max(0.0, low - room), high + room)
    axis.fill_between(ends, [end * (1 - _BAND) for end in ends], [end * (1 + _BAND) for end in ends], color="#eeeeee")
    axis.plot(ends, ends, color="#888888", linewidth=0.8)
    return ends
