"""The figures of a comparison: policies side by side, latency CDF, latency against load, KV memory over time."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tokencake.experiments.comparison import Comparison
from tokencake.experiments.plots.by_policy import by_policy
from tokencake.experiments.plots.latency_cdf import latency_cdf
from tokencake.experiments.plots.latency_load import latency_load
from tokencake.experiments.plots.memory import memory
from tokencake.experiments.plots.style import paper_style, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES: dict[str, Callable[[Comparison], "Figure | None"]] = {
    "by_policy": by_policy,
    "latency_cdf": latency_cdf,
    "latency_load": latency_load,
    "kv_memory": memory,
}


def draw(comparison: Comparison, directory: Path, formats: tuple[str, ...] = ("png", "pdf")) -> list[Path]:
    """Write every figure that the runs allow (latency against load needs two loads); returns the paths."""
    directory.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    with paper_style():
        for name, make in FIGURES.items():
            figure = make(comparison)
            if figure is not None:
                written += save(figure, directory / name, formats)
    return written
