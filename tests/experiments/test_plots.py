import numpy as np
import pytest
from PIL import Image

from tokencake.experiments.comparison import collect
from tokencake.experiments.plots import draw
from tokencake.experiments.plots.memory import time_mean
from tokencake.experiments.results import Run, find_runs


def ink(path):
    """Share of pixels that are not white."""
    return float((np.asarray(Image.open(path).convert("L")) < 250).mean())


def test_three_figures_in_two_formats(fake_sweep, tmp_path):
    written = draw(collect(find_runs([fake_sweep])), tmp_path / "figures")
    assert {p.name for p in written} == {
        f"{n}.{k}" for n in ("latency_cdf", "latency_load", "kv_memory") for k in ("png", "pdf")
    }
    for path in written:
        if path.suffix == ".png":
            assert 0.02 < ink(path) < 0.8
        else:
            assert path.read_bytes().startswith(b"%PDF")


def test_figures_are_equal_bytes(fake_sweep, tmp_path):
    comparison = collect(find_runs([fake_sweep]))
    one, two = (draw(comparison, tmp_path / name) for name in "ab")
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]


def test_one_load_has_no_load_figure(fake_run, tmp_path):
    written = draw(collect([Run(fake_run("only"))]), tmp_path / "figures", formats=("svg",))
    assert {p.name for p in written} == {"latency_cdf.svg", "kv_memory.svg"}


@pytest.mark.parametrize("bins", [1, 3, 7, 50])
def test_time_mean_keeps_the_area(bins):
    time, value = np.array([0.0, 0.3, 0.35, 4.0]), np.array([1.0, 5.0, 2.0, 9.0])
    edges = np.linspace(0, 4, bins + 1)
    area = float((time_mean(time, value, edges) * np.diff(edges)).sum())
    assert area == pytest.approx(1.0 * 0.3 + 5.0 * 0.05 + 2.0 * 3.65)
