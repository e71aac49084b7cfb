from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from commands import files, refused
from tokencake.experiments.cli import main
from tokencake.experiments.comparison import collect
from tokencake.experiments.plots import draw
from tokencake.experiments.plots.by_policy import by_policy
from tokencake.experiments.plots.memory import time_mean
from tokencake.experiments.plots.style import paper_style
from tokencake.experiments.results import Run, find_runs


def ink(path):
    """Share of pixels that are not white."""
    return float((np.asarray(Image.open(path).convert("L")) < 250).mean())


def test_four_figures_in_two_formats(fake_sweep, tmp_path):
    written = draw(collect(find_runs([fake_sweep])), tmp_path / "figures")
    assert {p.name for p in written} == {
        f"{n}.{k}" for n in ("by_policy", "latency_cdf", "latency_load", "kv_memory") for k in ("png", "pdf")
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


def test_policies_stand_in_order_of_their_mean_with_paired_intervals(fake_run):
    """A row each, the fastest on top, hollow if it knows the future; the dot is the ratio of means."""
    names = ["vllm", "srpf", *(f"p{i}" for i in range(4))]
    comparison = collect([Run(fake_run(f"{n}-{seed}", n, seed=seed)) for n in names for seed in range(3)])
    axis = by_policy(comparison).axes[0]
    means = comparison.frame.groupby("policy")["latency_mean_s"].mean()
    assert [label.get_text() for label in axis.get_yticklabels()][::-1] == list(means.sort_values().index)
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    hollow = [line.get_ydata()[0] for line in dots if line.get_markerfacecolor() == "white"]
    assert [axis.get_yticklabels()[int(y)].get_text() for y in hollow] == ["srpf"]
    ratios = {axis.get_yticklabels()[int(d.get_ydata()[0])].get_text(): d.get_xdata()[0] for d in dots}
    assert ratios == pytest.approx(dict(means / means["vllm"]))
    whiskers = [line for line in axis.lines if line.get_marker() != "o" and line.get_color() != "black"]
    assert len(whiskers) == len(names) - 1  # none for stock vLLM, which does not differ from itself


def test_one_that_is_far_slower_squeezes_nobody(fake_run):
    """130 times as slow: a number at the edge, in the panel of its mean and in that of its seconds."""
    slow = {"vllm": 1.0, "good": 0.8, "bad": 130.0}
    comparison = collect([Run(fake_run(f"{n}-{seed}", n, seed=seed)) for n in slow for seed in range(3)])
    metrics = ["latency_mean_s", "latency_p95_s", "queue_mean_s", "prefill_mean_s", "decode_mean_s"]
    base = comparison.frame.loc[comparison.frame["policy"] == "vllm", metrics].to_numpy()
    for name, factor in slow.items():
        comparison.frame.loc[comparison.frame["policy"] == name, metrics] = factor * base
    figure = by_policy(comparison)
    for axis in figure.axes[:2]:
        assert axis.get_xlim()[1] < 1.2
        assert [text.get_text() for text in axis.texts] == ["130 \N{RIGHTWARDS ARROW}"]
    assert len(figure.axes[2].texts) == 1
    assert figure.axes[2].get_xlim()[1] < 2 * base[:, 2:].sum(axis=1).mean()


def test_figures_and_tables_of_other_runs_do_not_stay(fake_sweep, tmp_path):
    """What the new runs do not have (pairs, loads) would be taken for theirs."""
    out = tmp_path / "figures"
    words = ["--no-table", "--format=png", "--out", str(out)]
    assert main(["plot", str(fake_sweep), *words]) == 0
    assert {"paired.csv", "latency_load.png"} <= {p.name for p in out.iterdir()}
    assert main(["plot", str(fake_sweep / "vllm_0.5_0"), *words, "--overwrite"]) == 0
    assert {p.name for p in out.iterdir()} == {"latency_cdf.png", "kv_memory.png", "table.csv", "table.md"}


def test_a_plot_that_fails_leaves_the_older_files_as_they_were(fake_sweep, tmp_path, monkeypatch, capsys):
    assert main(["plot", str(fake_sweep), "--no-table", "--format=png"]) == 0
    before = files(fake_sweep / "figures")
    capsys.readouterr()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tokencake.experiments.tables.save", full)
    assert "No space left on device" in refused(capsys, "plot", str(fake_sweep / "vllm_0.5_0"), "--no-table")
    assert not (fake_sweep / "vllm_0.5_0" / "figures").exists()
    refused(capsys, "plot", str(fake_sweep), "--no-table", "--format=png")
    assert files(fake_sweep / "figures") == before


def test_long_names_do_not_run_into_each_other(fake_run, tmp_path):
    """A composition as the baseline: no text of the figure lies on another one."""
    parts = {"order": "autellix", "place": "mine:KeepsEverythingForAVeryLongTime", "store": "vllm-offload"}
    runs = [
        Run(fake_run(f"a{seed}", "compose", seed=seed, policy_section={"name": "compose", **parts})) for seed in (0, 1)
    ]
    runs += [Run(fake_run(f"b{seed}", seed=seed)) for seed in (0, 1)]
    with paper_style():
        figure = by_policy(collect(runs))
        FigureCanvasAgg(figure).draw()
    axes = figure.axes[:2]
    boxes = [axis.xaxis.label.get_window_extent() for axis in figure.axes]
    boxes += [label.get_window_extent() for label in axes[0].get_yticklabels()]
    assert not [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)]
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


@pytest.mark.parametrize("bins", [1, 3, 7, 50])
def test_time_mean_keeps_the_area(bins):
    time, value = np.array([0.0, 0.3, 0.35, 4.0]), np.array([1.0, 5.0, 2.0, 9.0])
    edges = np.linspace(0, 4, bins + 1)
    area = float((time_mean(time, value, edges) * np.diff(edges)).sum())
    assert area == pytest.approx(1.0 * 0.3 + 5.0 * 0.05 + 2.0 * 3.65)
