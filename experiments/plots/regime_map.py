"""Where a policy wins: change of the mean latency over tool duration and memory, one panel an application."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.colors import TwoSlopeNorm

from tokencake.experiments.plots.style import PAGE_IN, new_figure, paper_style, save

_KEY = (
    "First line: mean latency of tokencake over that of vllm, change in per cent ± half of its 95 % interval"
    " (in brackets: includes 0).\nSecond line: turnover of vllm's KV over the P90 of tools."
)
Changes = Sequence[Sequence[tuple[float, float]]]
Ratios = Sequence[Sequence[float]]


def draw(
    maps: Mapping[str, tuple[Changes, Ratios]],
    tools_s: Sequence[float],
    blocks: Sequence[int],
    stem: Path,
    formats: Sequence[str],
) -> list[Path]:
    """Draw a heat map an application.

    Args:
        maps: Per application the change in per cent (negative is faster) with its half width, and the baseline's
            turnover ratio, by memory (rows) and tool duration (columns).
        tools_s: Mean tool durations of the columns.
        blocks: GPU blocks of the rows.
        stem: File without its ending.
        formats: Endings.

    Returns:
        The files written.
    """
    reach = max(5.0, *(abs(change) for changes, _ in maps.values() for row in changes for change, _ in row))
    with paper_style():
        figure, axes = new_figure(PAGE_IN, 3.4, columns=len(maps), sharey=True)
        for ax, (name, (changes, ratios)) in zip(axes, maps.items(), strict=True):
            values = [[change for change, _ in row] for row in changes]
            image = ax.imshow(
                values, cmap="RdBu_r", norm=TwoSlopeNorm(0.0, -reach, reach), origin="lower", aspect="auto"
            )
            ax.grid(visible=False)
            ax.set_title(name.replace("_", "-").title(), loc="left")
            ax.set_xlabel("mean tool duration (s)")
            ax.set_xticks(range(len(tools_s)), [f"{tool:g}" for tool in tools_s])
            ax.set_yticks(range(len(blocks)), [f"{count:,}" for count in blocks])
            for y, row in enumerate(changes):
                for x, (change, half) in enumerate(row):
                    text = f"{_change(change, half)}\n{_ratio(ratios[y][x])}"
                    colour = "white" if abs(change) > 0.6 * reach else "black"
                    ax.text(x, y, text, ha="center", va="center", fontsize=6, color=colour)
        axes[0].set_ylabel("GPU memory (blocks of 16 tokens)")
        figure.suptitle(_KEY, fontsize=7, x=0.02, horizontalalignment="left")
        figure.colorbar(image, ax=axes, label="change of mean latency (%)", shrink=0.9, fraction=0.05, pad=0.01)
        return save(figure, stem, formats)


def _change(mean: float, half: float) -> str:
    """Per cent with half of the interval, in brackets where it includes 0; with one draw there is no interval."""
    text = (f"{mean:+.0f}" if round(mean) else "0").replace("-", "\N{MINUS SIGN}")
    if math.isnan(half):
        return text
    text += f" ±{half:.0f}"
    return f"({text})" if abs(mean) <= half and round(half) else text


def _ratio(value: float) -> str:
    if math.isinf(value):
        return "∞"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
