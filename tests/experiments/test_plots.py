import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from commands import files, refused
from tokencake.experiments.cli import main
from tokencake.experiments.comparison import collect
from tokencake.experiments.metrics import mean_interval
from tokencake.experiments.plots import draw
from tokencake.experiments.plots.by_policy import by_policy
from tokencake.experiments.plots.latency_cdf import latency_cdf
from tokencake.experiments.plots.latency_load import latency_load
from tokencake.experiments.plots.memory import memory, time_mean
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
    whiskers = [line for line in axis.lines if len(line.get_xdata()) == 2 and len(set(line.get_ydata())) == 1]
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


def set_latencies(comparison, **values):
    """Put latencies, one a seed, and calls' times in their proportion into the rows of a policy."""
    metrics = ["latency_mean_s", "latency_p95_s", "queue_mean_s", "prefill_mean_s", "decode_mean_s"]
    for name, seeds in values.items():
        for metric in metrics:
            comparison.frame.loc[comparison.frame["policy"] == name, metric] = seeds
    return comparison


def whiskers(axis):
    """Both ends of the interval in each row that has one."""
    lines = [line for line in axis.lines if len(line.get_xdata()) == 2 and len(set(line.get_ydata())) == 1]
    return {int(line.get_ydata()[0]): list(line.get_xdata()) for line in lines}


def test_an_interval_is_whole_or_says_where_it_goes_on_to(fake_run):
    """In every panel: one beyond the dots moves the axis, one that would squeeze them ends in an arrow and a number."""
    seeds = {"vllm": [10.0, 10.0, 10.0], "near": [9.0, 9.5, 10.5], "wide": [1.0, 12.0, 30.0], "good": [6.0, 6.0, 6.0]}
    runs = [Run(fake_run(f"{name}-{seed}", name, seed=seed)) for name in seeds for seed in range(3)]
    comparison = set_latencies(collect(runs), **seeds)
    figure = by_policy(comparison)
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    near, wide = rows.index("near"), rows.index("wide")
    found = mean_interval(seeds["wide"])
    for axis, scale in zip(figure.axes, (10.0, 10.0, 1 / 3), strict=True):
        first, last = axis.get_xlim()
        assert first < whiskers(axis)[near][0] < whiskers(axis)[near][1] < last
        assert whiskers(axis)[wide] == [first, last]
        left, right = (text.get_text() for text in axis.texts)
        assert left.startswith("\N{LEFTWARDS ARROW} \N{MINUS SIGN}")
        assert float(left.split()[1].replace("\N{MINUS SIGN}", "-")) == pytest.approx(found.low / scale, rel=0.05)
        assert right.endswith("\N{RIGHTWARDS ARROW}")
        assert float(right.split()[0]) == pytest.approx(found.high / scale, rel=0.05)
        assert {text.get_position()[1] for text in axis.texts} == {wide}
    assert figure.legends[0].get_texts()[0].get_text() == "95 % interval"


def test_waiting_after_a_preemption_is_no_decode(fake_run):
    comparison = collect([Run(fake_run(name, name)) for name in ("vllm", "preempts")])
    parts = {"queue": 2.0, "prefill": 3.0, "decode": 10.0, "prefill_preempted": 1.0, "decode_preempted": 4.0}
    for part, seconds in parts.items():
        comparison.frame.loc[comparison.frame["policy"] == "preempts", f"{part}_mean_s"] = seconds
    figure = by_policy(comparison)
    row = [label.get_text() for label in figure.axes[0].get_yticklabels()].index("preempts")
    drawn = {bars.get_label(): bars[row].get_width() for bars in figure.axes[2].containers}
    assert drawn == {"queue": 2.0, "queue again": 5.0, "prefill and loads": 2.0, "decode": 6.0}
    assert set(drawn) <= {text.get_text() for text in figure.legends[0].get_texts()}


@pytest.mark.parametrize("base", ["vllm", "none"])
def test_a_policy_under_which_nothing_finished_has_no_point_and_says_so(fake_run, base):
    """In the last row, whether it is one of those compared or what they are compared with."""
    names = [base, *{"vllm", "none", "good"} - {base}]
    comparison = collect([Run(fake_run(f"{name}-{seed}", name, seed=seed)) for name in names for seed in range(2)])
    figure = by_policy(set_latencies(comparison, none=[math.nan, math.nan]))
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert "none (no program finished)" in rows
    assert base == "none" or rows[0] == "none (no program finished)"
    points = [
        line for line in figure.axes[0].lines if line.get_marker() == "o" and not np.isnan(line.get_xdata()).any()
    ]
    assert len(points) == (2 if base == "vllm" else 0)
    assert base == "vllm" or sum("(not comparable)" in row for row in rows) == 2


def test_runs_that_refused_everything_can_be_drawn(empty_directory):
    tiny = ["+experiment=tiny", "trace=demo", "engine.max_model_len=100"]
    with pytest.raises(SystemExit, match="1"):
        main(["run", "-m", "policy=vllm,vllm-offload", *tiny, "out=runs"])
    assert main(["plot", "runs", "--format=png"]) == 0
    comparison = collect(find_runs([Path("runs")]))
    figure = latency_cdf(comparison)
    assert [text.get_text() for text in figure.axes[0].texts] == ["no program finished"]
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {
        f"{name} (no program finished)" for name in ("vllm", "vllm-offload")
    }
    for axis, text in zip(
        by_policy(comparison).axes, ("no program finished",) * 2 + ("no call finished",), strict=True
    ):
        assert [shown.get_text() for shown in axis.texts] == [text]
        assert not len(axis.get_xticks())


def test_more_policies_than_colours_have_a_panel_each(fake_run):
    names = ["vllm", *(f"p{i}" for i in range(9))]
    figure = latency_cdf(collect([Run(fake_run(name, name)) for name in names]))
    panels = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title(loc="left") for axis in panels] == names[1:]
    assert all(len(axis.lines) == 2 for axis in panels)
    assert len({tuple(axis.lines[1].get_xdata()) for axis in panels}) == 1  # vllm's, beside each
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["the policy of the panel", "vllm"]


def test_many_loads_have_ticks_but_no_numbers_that_overlap(fake_run):
    loads = (0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.31, 0.5, 1.0, 2.0, 4.9, 5.0)
    with paper_style():
        figure = latency_load(collect([Run(fake_run(f"q{qps}", qps=qps)) for qps in loads]))
        FigureCanvasAgg(figure).draw()
    for axis in figure.axes:
        shown = [label for label in axis.get_xticklabels() if label.get_text()]
        assert len(axis.get_xticks()) == len(loads)
        assert [shown[0].get_text(), shown[-1].get_text()] == ["0.1", "5"]
        boxes = [label.get_window_extent() for label in shown]
        assert not [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)]


def test_panels_of_memory_over_time_all_say_which_time(fake_run):
    figure = memory(collect([Run(fake_run(name, name)) for name in ("vllm", "mori", "saga", "srpf", "concur")]))
    FigureCanvasAgg(figure).draw()
    panels = [axis for axis in figure.axes if axis.get_visible()]
    shown = [[tick.get_text() for tick in axis.get_xticklabels() if tick.get_visible()] for axis in panels]
    assert len(shown) == 5 and shown[0]
    assert all(ticks == shown[0] for ticks in shown)


def test_a_band_that_would_squeeze_the_means_is_cut_and_says_how_far_it_goes(fake_run):
    runs = [Run(fake_run(f"{qps}-{seed}", qps=qps, seed=seed)) for qps in (0.5, 1.0) for seed in range(2)]
    comparison = collect(runs)
    comparison.frame["latency_mean_s"] = [10.0, 30.0, 20.0, 20.1]
    axis = latency_load(comparison).axes[0]
    assert axis.get_ylim() == (0, 2.5 * 20.05)
    assert [text.get_text() for text in axis.texts] == ["147 \N{UPWARDS ARROW}"]  # 20 + 12.7 * 14.1 / 1.41


def test_memory_is_free_until_the_first_program_comes(fake_run):
    """The table begins when it comes; the axis begins at 0."""
    run = Run(fake_run("late"))
    table = run.table("kv")
    table["time_s"] += 10
    table.to_parquet(run.path / "kv.parquet")
    axis = memory(collect([Run(run.path)])).axes[0]
    free = axis.collections[-1].get_paths()[0]
    assert free.contains_points([(5, 1), (5, 50), (5, 99)]).all()
    assert not free.contains_point((10.1 + float(table["time_s"].iloc[1] - 10), 1))


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
