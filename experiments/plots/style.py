"""How figures look: paper width, the colour-blind-safe palette of Okabe and Ito, no ornament."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

NOTHING = "no program finished"

COLUMN_IN = 3.5  # one column of a two-column paper, in inches
PAGE_IN = 7.0

_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A6D00")
BUSY, WARM, PALE, BLANK = "#3d5166", "#DD8000", "#b9cfe0", "#f0f0f0"
"""Fills of stacked parts: even steps of grey where there is no colour."""

LineStyle = str | tuple[float, tuple[float, ...]]
_LINES: tuple[LineStyle, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (5, 1, 1, 1)))
_CHARACTERS_PER_IN = 17  # of a legend's size
_HANDLE = 8  # characters that a legend's line and gaps take
_MOST_COLUMNS = 5
_ROW_IN = 0.14  # height of a legend's row
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h", "d")


@contextmanager
def paper_style() -> Iterator[None]:
    """Matplotlib settings for figures that are printed at their own size."""
    settings: dict[Any, Any] = {
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.6,
        "axes.grid": True,
        "grid.color": "#dddddd",
        "grid.linewidth": 0.5,
        "axes.axisbelow": True,
        "lines.linewidth": 1.4,
        "lines.markersize": 4,
        "hatch.linewidth": 0.7,
        "figure.dpi": 100,
        "savefig.dpi": 300,
        "figure.constrained_layout.use": True,
        "pdf.fonttype": 42,
        "svg.fonttype": "none",
        "svg.hashsalt": "tokencake",
    }
    with rc_context(settings):
        yield


def colour(index: int) -> str:
    """The colour of the policy with this index."""
    return _PALETTE[index % len(_PALETTE)]


def line(index: int) -> LineStyle:
    """The dash pattern of the policy with this index, readable without colour; another one in each round of colours."""
    return _LINES[(index + index // len(_PALETTE)) % len(_LINES)]


def marker(index: int) -> str:
    """The marker of the policy with this index; more than colours, so that policies of one colour differ."""
    return _MARKERS[index % len(_MARKERS)]


def new_figure(
    width: float, height: float, columns: int = 1, rows: int = 1, *, sharex: bool = False, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure in inches and its axes, row by row; it belongs to no window and to no global list."""
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)
    return figure, [ax for row in axes for ax in row]


def round_ticks(most: int = 5) -> MaxNLocator:
    """So many ticks and one at most, at numbers that are easy to read."""
    return MaxNLocator(most, steps=[1, 2, 2.5, 5, 10])


def thousands(axis: Axis) -> None:
    """Numbers as they are read: 100,000, and not 100000 or 1e5."""
    axis.set_major_formatter(StrMethodFormatter("{x:,.12g}"))


def folded(text: str, room: int) -> str:
    """A text in lines of at most so many characters."""
    return textwrap.fill(text, room, break_on_hyphens=False)


def lines(text: str) -> int:
    """How many lines a text has."""
    return text.count("\n") + 1


def legend(figure: Figure, handles: Sequence[Artist], labels: Sequence[str], *, title: str = "") -> None:
    """A legend above the axes in as many columns as its labels leave room for."""
    room = int(figure.get_figwidth() * _CHARACTERS_PER_IN)
    texts = [folded(label, room - _HANDLE) for label in labels]
    longest = max((len(line) for text in texts for line in text.split("\n")), default=1)
    columns = max(1, min(_MOST_COLUMNS, room // (longest + _HANDLE)))
    rows = -(-len(texts) // columns)
    figure.set_figheight(figure.get_figheight() + _ROW_IN * (rows - 1))
    options = {"title": title, "title_fontsize": 8} if title else {}
    figure.legend(handles, texts, loc="outside upper center", ncols=columns, handlelength=3.0, **options)


def note(figure: Figure, text: str) -> None:
    """A line below the axes, for what the numbers do not show."""
    told = folded(text, int(figure.get_figwidth() * _CHARACTERS_PER_IN))
    figure.set_figheight(figure.get_figheight() + _ROW_IN * lines(told))
    figure.supxlabel(told, fontsize=7, x=0.02, horizontalalignment="left")


def say(axes: Axes, text: str) -> None:
    """A text in the middle of axes that have nothing to show."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center")


def panel_title(axes: Axes, text: str, columns: int) -> None:
    """The title of one of ``columns`` panels, folded where it would run into the next."""
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    room = int(figure.get_figwidth() / columns * _CHARACTERS_PER_IN) - _HANDLE
    axes.set_title(folded(text, max(room, 12)), loc="left")


def save(figure: Figure, stem: Path, formats: Sequence[str]) -> list[Path]:
    """Write the figure without a time stamp."""
    written = []
    for kind in formats:
        path = stem.with_suffix(f".{kind}")
        metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
        figure.savefig(path, metadata=metadata)
        written.append(path)
    return written
