"""Predicted against measured, a point a policy and setting."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from tokencake.experiments.pairing import Pair
from tokencake.experiments.plots.style import PAGE_IN, colour, legend, marker, new_figure, round_ticks, thousands

_PANELS = (
    ("program_latency_mean_s", "mean program latency"),
    ("makespan_s", "makespan"),
    ("ttft_mean_s", "mean TTFT"),
)
_BAND, _GREY = 0.1, "#e4e4e4"


def agreement(pairs: Sequence[Pair]) -> Figure:
    """One panel a metric: the diagonal is agreement, the grey band is 10 %, bars are ranges of repeats and draws.

    Colour tells policies apart, and the marker, too, where there is one setting; else it tells settings apart.
    """
    figure, axes = new_figure(PAGE_IN, 3.0, columns=len(_PANELS))
    settings = list(dict.fromkeys(pair.setting for pair in pairs))
    policies = list(dict.fromkeys(pair.policy for pair in pairs))
    looks: dict[str, dict[str, Any]] = {
        policy: {"color": colour(i), "marker": marker(i)} for i, policy in enumerate(policies)
    }
    for axis, (metric, title) in zip(axes, _PANELS, strict=True):
        limits = _diagonal(axis, pairs, metric)
        for pair in pairs:
            predicted, measured = pair.values(metric)
            forecast, mean = map(fmean, pair.samples(metric))
            look = looks[pair.policy]
            if len(settings) > 1:
                look = look | {"marker": marker(settings.index(pair.setting))}
            bars: dict[str, Any] = {"xerr": _range(measured, mean), "yerr": _range(predicted, forecast)}
            axis.errorbar(mean, forecast, **bars, **look, linestyle="none", elinewidth=0.8)
        axis.set_xlim(limits)
        axis.set_ylim(limits)
        axis.set_aspect("equal")
        axis.set_title(title, loc="left")
        axis.set_xlabel("measured (s)")
        for ticks in (axis.xaxis, axis.yaxis):
            ticks.set_major_locator(round_ticks())
            thousands(ticks)
    axes[0].set_ylabel("predicted (s)")
    handles: dict[str, Artist] = {name: Line2D([], [], linestyle="none", **look) for name, look in looks.items()}
    if len(settings) > 1:
        handles = {name: Patch(color=look["color"]) for name, look in looks.items()}
        grey: dict[str, Any] = {"color": "#888888", "linestyle": "none"}
        handles |= {setting: Line2D([], [], marker=marker(i), **grey) for i, setting in enumerate(settings)}
    handles[f"within {_BAND:.0%}".replace("%", " %")] = Patch(color=_GREY)
    if any(len(pair.measured) > 1 or len(pair.predicted) > 1 for pair in pairs):
        handles["range of repeats"] = Line2D([], [], color="black", linewidth=0.8)
    legend(figure, list(handles.values()), list(handles))
    return figure


def _range(values: Sequence[float], mean: float) -> list[list[float]]:
    """How far values go below and above their mean, which is rounded."""
    return [[max(0.0, mean - min(values))], [max(0.0, max(values) - mean)]]


def _diagonal(axis: Axes, pairs: Sequence[Pair], metric: str) -> tuple[float, float]:
    values = [value for pair in pairs for side in pair.values(metric) for value in side]
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.1 * high or 1.0
    ends = (max(0.0, low - room), high + room)
    axis.fill_between(
        ends, [end * (1 - _BAND) for end in ends], [end * (1 + _BAND) for end in ends], color=_GREY, linewidth=0
    )
    axis.plot(ends, ends, color="#888888", linewidth=0.8)
    return ends
