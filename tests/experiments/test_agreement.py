"""`tokencake compare`: who is compared with whom, signed errors, spread and ranking, on made-up runs."""

import json
import math
from statistics import fmean

import pandas as pd
import pytest
from matplotlib.lines import Line2D

from tokencake.experiments.agreement import STEP_TIME, compare
from tokencake.experiments.cli import main
from tokencake.experiments.pairing import pair_up
from tokencake.experiments.plots.agreement import agreement
from tokencake.experiments.ranking import rankings
from tokencake.experiments.results import find_runs

POLICIES = ("vllm", "vllm-priority", "vllm-offload")


@pytest.fixture
def measured_and_predicted(write, tmp_path):
    """Three policies, three repeats each: the second and the third are inside each other's spread."""
    measured = {"vllm": (10.0, 11.0, 9.0), "vllm-priority": (6.0, 6.1, 6.2), "vllm-offload": (6.0, 6.1, 5.9)}
    predicted = {"vllm": 9.0, "vllm-priority": 6.5, "vllm-offload": 6.6}
    for policy in POLICIES:
        write("sim", "sim", policy, predicted[policy])
        for repeat, latency in enumerate(measured[policy]):
            write("live", "live", policy, latency, repeat)
    return [find_runs([tmp_path / "live"]), find_runs([tmp_path / "sim"])]


def test_measured_steps_say_how_far_the_machine_was_from_its_profile(measured_and_predicted, tmp_path, capsys):
    for run in measured_and_predicted[0]:
        if run.summary["policy"] == "vllm":
            slow = 1 + run.repeat
            steps = pd.DataFrame({"duration_s": [0.5 * slow, 0.5 * slow], "expected_s": [0.6 * slow, 0.5 * slow]})
            steps.to_parquet(run.path / "steps.parquet")
    pairs = pair_up(measured_and_predicted)
    steps = {row.policy: row.error for row in compare(pairs) if row.metric == STEP_TIME}
    assert steps == {"vllm": pytest.approx(0.1)}
    assert [row.margin for row in compare(pairs) if row.metric == STEP_TIME] == [pytest.approx(0.0)], "10 % each time"
    assert main(["compare", str(tmp_path / "live"), str(tmp_path / "sim"), f"--out={tmp_path / 'out'}"]) == 0
    table = (tmp_path / "out" / "compare.md").read_text().split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    at = cells[0].index("steps")
    assert {row[0]: row[at] for row in cells[2:]} == {"vllm": "+10.0", "vllm-priority": "", "vllm-offload": ""}


def test_the_engine_is_what_the_simulator_is_measured_by_in_any_order(measured_and_predicted):
    for directories in (measured_and_predicted, measured_and_predicted[::-1]):
        pairs = pair_up(directories)
        assert {(pair.policy, len(pair.predicted), len(pair.measured)) for pair in pairs} == {
            (p, 1, 3) for p in POLICIES
        }
        assert {run.summary["host"] for pair in pairs for run in pair.measured} == {"live"}


def test_errors_are_signed_and_relative_to_the_mean_of_the_repeats(measured_and_predicted):
    rows = {(row.policy, row.metric): row for row in compare(pair_up(measured_and_predicted))}
    vllm = rows["vllm", "program_latency_mean_s"]
    assert (vllm.measured, vllm.predicted, vllm.repeats) == (10.0, 9.0, 3)
    assert vllm.error == pytest.approx(-0.1)
    assert vllm.spread == pytest.approx(0.2)
    assert rows["vllm", "preemptions"].error == 0.0, "nothing measured, nothing predicted"


def mean_latency(tmp_path):
    (row,) = (
        row
        for row in compare(pair_up([find_runs([tmp_path / "live"]), find_runs([tmp_path / "sim"])]))
        if row.metric == "program_latency_mean_s"
    )
    return row


def test_an_error_says_how_well_it_is_known_from_the_repeats_of_both_sides(write, tmp_path):
    for repeat, (measured, predicted) in enumerate(((9.0, 11.0), (11.0, 13.0))):
        write("live", "live", "vllm", measured, repeat)
        write("sim", "sim", "vllm", predicted, draw=repeat)
    latency = mean_latency(tmp_path)
    assert latency.error == pytest.approx(0.2) and not latency.paired
    # Both means have a standard error of 1 s: one tenth of what was measured, one twelfth of what was predicted.
    assert latency.standard_error == pytest.approx(1.2 * ((1 / 10) ** 2 + (1 / 12) ** 2) ** 0.5)
    # Welch-Satterthwaite: (1 + 1.2^2)^2 / (1 + 1.2^4) = 1.94 degrees of freedom, rounded down; t(0.975, 1) = 12.706.
    assert latency.margin == pytest.approx(12.706205 * latency.standard_error)
    write("once", "live", "vllm-priority", 6.0)
    write("forecast", "sim", "vllm-priority", 6.0)
    (single,) = pair_up([find_runs([tmp_path / "once"]), find_runs([tmp_path / "forecast"])])
    assert all(math.isnan(row.standard_error) and math.isnan(row.margin) for row in compare([single]) if row.measured)


def test_repeats_of_both_sides_are_paired_and_each_weighs_the_same(write, tmp_path):
    """Means 5 and 10, so ratio 1/2; what is left is 1, -1, 0 with s = 1: the standard error is 1 / (10 √3)."""
    draws = ((4.0, 6.0), (4.0,), (5.0, 6.0, 7.0))
    for repeat, (measured, predicted) in enumerate(zip((8.0, 10.0, 12.0), draws, strict=True)):
        write("live", "live", "vllm", measured, repeat)
        for draw, latency in enumerate(predicted):
            write("sim", "sim", "vllm", latency, repeat, draw=draw)
    row = mean_latency(tmp_path)
    assert (row.measured, row.predicted, row.repeats, row.paired) == (10.0, 5.0, 3, True)
    assert row.error == pytest.approx(-0.5)
    assert row.standard_error == pytest.approx(1 / (10 * 3**0.5))
    assert row.margin == pytest.approx(4.302653 * row.standard_error)


def test_draws_of_a_repeat_are_no_independent_samples(write, tmp_path):
    """Not where a repeat was not measured, either: then the three means 9, 10 and 11 are, not the twelve runs."""
    for repeat in range(3):
        for draw in range(4):
            write("sim", "sim", "vllm", 9.0 + repeat, repeat, draw=draw)
    for repeat in range(2):
        write("live", "live", "vllm", 10.0, repeat)
    row = mean_latency(tmp_path)
    assert not row.paired and row.error == 0.0
    assert row.standard_error == pytest.approx(1 / (10 * 3**0.5))
    assert row.margin == pytest.approx(4.302653 * row.standard_error)


@pytest.mark.parametrize(("kind", "how"), [("repeat", "paired by repeat"), ("draw", "taken as independent")])
def test_how_fast_the_machine_was_is_no_error_of_what_was_calibrated_with_it(kind, how, write, tmp_path, capsys):
    """Ten per cent too long each time, on a machine that is twice as slow the third time."""
    for i, (measured, predicted) in enumerate(((10.0, 11.0), (15.0, 16.4), (20.0, 22.1))):
        write("live", "live", "vllm", measured, i)
        write("sim", "sim", "vllm", predicted, **{kind: i})
    assert main(["compare", str(tmp_path / "live"), str(tmp_path / "sim"), "--out", str(tmp_path / "c")]) == 0
    (line,) = (text for text in capsys.readouterr().out.splitlines() if text.startswith("Errors beyond"))
    assert f"Student's t over the repeats, sides {how};" in line
    assert ("vllm program_latency_mean_s +10.0%" in line) is (kind == "repeat")


def test_equal_runs_are_not_beyond_an_interval_by_a_last_digit(write, tmp_path, capsys):
    """The mean of seven equal numbers need not be that number."""
    latency = 3.388
    assert fmean([latency] * 7) != latency
    for repeat in range(2):
        write("live", "live", "vllm", latency, repeat)
        write("live", "live", "vllm-offload", latency + repeat / 3, repeat)
        write("sim", "sim", "vllm-offload", latency + repeat / 3, repeat)
        for draw in range(7):
            write("sim", "sim", "vllm", latency, repeat, draw=draw)
    assert main(["compare", str(tmp_path / "live"), str(tmp_path / "sim"), "--out", str(tmp_path / "c")]) == 0
    (line,) = (text for text in capsys.readouterr().out.splitlines() if text.startswith("Errors beyond"))
    assert line.endswith(" of 8: none.")
    frame = pd.read_csv(tmp_path / "c" / "compare.csv").query("policy == 'vllm-offload'")
    assert set(frame["error"]) == {0.0} and set(frame["margin"].dropna()) == {0.0} and frame["paired"].all()


def test_only_errors_beyond_the_scatter_are_named(measured_and_predicted, tmp_path, capsys):
    assert main(["compare", str(tmp_path / "live"), str(tmp_path / "sim"), "--out", str(tmp_path / "c")]) == 0
    (line,) = (text for text in capsys.readouterr().out.splitlines() if text.startswith("Errors beyond"))
    assert "vllm-offload program_latency_mean_s +10.0%" in line
    assert " vllm program" not in line, "10 % off, where equal runs differ by 20 %"


@pytest.mark.parametrize(("predicted", "named"), [(8.5, False), (7.9, True)])
def test_three_repeats_leave_two_degrees_of_freedom(predicted, named, write, tmp_path, capsys):
    """9, 10 and 11 s: the standard error of 8.5 s over their mean is 0.85 * 5.8 % = 4.9 %, and t(0.975, 2) = 4.30.

    So 15 % off is three standard errors and inside the interval of 21 %; 7.9 s is 21 % off, beyond its 19.6 %.
    """
    for repeat, latency in enumerate((9.0, 10.0, 11.0)):
        write("live", "live", "vllm", latency, repeat)
    write("sim", "sim", "vllm", predicted)
    assert main(["compare", str(tmp_path / "live"), str(tmp_path / "sim"), "--out", str(tmp_path / "c")]) == 0
    (line,) = (text for text in capsys.readouterr().out.splitlines() if text.startswith("Errors beyond"))
    assert ("vllm program_latency_mean_s" in line) is named


def test_ranking_sets_pairs_inside_the_spread_aside(measured_and_predicted):
    (rank,) = rankings(pair_up(measured_and_predicted))
    # The last two were predicted the other way round, by less than their repeats differ.
    assert (rank.policies, rank.pairs, rank.set_aside) == (3, 3, 1)
    assert rank.tau == pytest.approx(1 / 3)
    assert rank.clear_tau == 1.0
    assert rank.low <= rank.tau <= rank.high
    assert rank.repeats == 3


def test_a_ranking_says_what_it_rests_on(measured_and_predicted, tmp_path, capsys):
    assert main(["compare", str(tmp_path / "live"), str(tmp_path / "sim"), "--out", str(tmp_path / "c")]) == 0
    (line,) = (text for text in capsys.readouterr().out.splitlines() if text.startswith("order of 3 policies"))
    assert "over 3 measured repeats with predictions held fixed" in line
    assert "1.00 over the 2 of 3 pairs that differ by more than the spread" in line


def test_settings_are_ranked_apart(write, tmp_path):
    for qps, latencies in ((0.1, (3.0, 2.0)), (0.2, (2.0, 3.0))):
        for policy, latency in zip(POLICIES, latencies, strict=False):
            write("live", "live", policy, latency, qps=qps)
            write("sim", "sim", policy, {"vllm": 3.0, "vllm-priority": 2.0}[policy], qps=qps)
    found = rankings(pair_up([find_runs([tmp_path / "live"]), find_runs([tmp_path / "sim"])]))
    assert {rank.setting: rank.tau for rank in found} == {"qps=0.1": 1.0, "qps=0.2": -1.0}


def test_many_rankings_are_one_line(write, tmp_path, capsys):
    """The file has them all."""
    for qps in range(1, 7):
        for policy, latency in zip(POLICIES, (3.0, 2.0), strict=False):
            write("live", "live", policy, latency, qps=qps)
            write("sim", "sim", policy, 5.0 - latency if qps == 4 else latency, qps=qps)
    out = tmp_path / "c"
    assert main(["compare", str(tmp_path / "live"), str(tmp_path / "sim"), "--out", str(out)]) == 0
    (line,) = (text for text in capsys.readouterr().out.splitlines() if "Kendall's tau" in text)
    assert line.startswith("order of policies by program_latency_mean_s in 6 settings: Kendall's tau mean 0.67, ")
    assert line.endswith(f"lowest -1.00 (qps=4); one by one in {out / 'compare.md'}.")
    assert (out / "compare.md").read_text().count("Kendall's tau") == 6


def test_runs_of_one_host_are_told_apart_by_their_directory(write, tmp_path, capsys):
    write("before", "sim", "vllm", 4.0)
    write("after", "sim", "vllm", 5.0)
    assert main(["compare", str(tmp_path / "before"), str(tmp_path / "after")]) == 0
    out = capsys.readouterr().out
    assert f"Signed differences in percent: the other runs over those in {tmp_path / 'before'} (all sim)" in out
    assert "measured" not in out.replace("predicted_measured", "")


def test_runs_of_one_host_are_compared_with_the_first_directory(write, tmp_path):
    write("before", "sim", "vllm", 4.0)
    write("after", "sim", "vllm", 5.0)
    (pair,) = pair_up([find_runs([tmp_path / "before"]), find_runs([tmp_path / "after"])])
    row = compare([pair])[0]
    assert (row.measured, row.predicted, row.error) == (4.0, 5.0, 0.25)


def test_the_command_writes_a_table_and_a_figure(measured_and_predicted, tmp_path, capsys):
    assert main(["compare", str(tmp_path / "live"), str(tmp_path / "sim"), "--out", str(tmp_path / "c")]) == 0
    out = capsys.readouterr().out
    assert "Kendall's tau" in out
    assert "Load average of the machine during the measured runs: 0.5 to 1.5." in out
    assert {p.name for p in (tmp_path / "c").iterdir()} == {
        "compare.csv", "compare.md", "predicted_measured.png", "predicted_measured.pdf",
    }  # fmt: skip
    frame = pd.read_csv(tmp_path / "c" / "compare.csv")
    assert set(frame["policy"]) == set(POLICIES)
    assert (tmp_path / "c" / "compare.md").read_text().startswith("| policy | runs |")


def test_the_load_of_the_machine_is_no_matter_in_simulated_time(write, tmp_path, capsys):
    for name in ("before", "after"):
        write(name, "sim", "vllm", 4.0)
    for timing in tmp_path.glob("*/**/timing.json"):
        timing.write_text(json.dumps({"load_average": [0.5, 1.5]}))
    assert main(["compare", str(tmp_path / "before"), str(tmp_path / "after"), "--out", str(tmp_path / "c")]) == 0
    assert "Load average" not in capsys.readouterr().out


def test_a_run_that_was_ended_early_is_left_out(measured_and_predicted, change_summary, tmp_path, capsys):
    cut = change_summary(tmp_path / "live" / "vllm-0.5-1-0", interrupted=True)
    words = ["compare", str(tmp_path / "live"), str(tmp_path / "sim"), "--out", str(tmp_path / "c")]
    assert main(words) == 0
    assert capsys.readouterr().err == f"tokencake compare: left out: {cut} was interrupted\n"
    frame = pd.read_csv(tmp_path / "c" / "compare.csv")
    latency = frame[frame["metric"] == "program_latency_mean_s"].set_index("policy")
    assert latency["repeats"].to_dict() == {"vllm": 2, "vllm-priority": 3, "vllm-offload": 3}
    assert latency.loc["vllm", "measured"] == pytest.approx((10.0 + 9.0) / 2)


@pytest.mark.parametrize("command", [["compare"], ["plot", "--no-table"]], ids=lambda words: words[0])
def test_files_elsewhere_are_replaced_only_if_asked(command, measured_and_predicted, tmp_path, capsys):
    words = [*command, str(tmp_path / "live"), str(tmp_path / "sim")]
    for _ in range(2):  # beside the runs they are renewed
        assert main([*words, "--format=png"]) == 0
    words += ["--out", str(tmp_path / "c"), "--format=png"]
    (tmp_path / "c").mkdir()
    name = {"compare": "compare.md", "plot": "table.md"}[command[0]]
    (tmp_path / "c" / name).write_text("mine")
    (tmp_path / "c" / "thesis.tex").write_text("mine")
    capsys.readouterr()
    assert main(words) == 2
    assert f"{name} is there already" in capsys.readouterr().err
    assert {p.name: p.read_text() for p in (tmp_path / "c").iterdir()} == {name: "mine", "thesis.tex": "mine"}
    assert main([*words, "--overwrite"]) == 0
    assert (tmp_path / "c" / name).read_text().startswith("|")
    assert (tmp_path / "c" / "thesis.tex").read_text() == "mine"
    assert not [p.name for p in (tmp_path / "c").iterdir() if p.name.startswith(".")]


def test_what_cannot_be_compared_is_one_line(write, tmp_path, capsys):
    write("live", "live", "vllm", 1.0)
    write("sim", "sim", "vllm-offload", 1.0)
    for words, said in (
        ([str(tmp_path / "live")], "two or more"),
        ([str(tmp_path / "live"), str(tmp_path / "sim")], "no two runs of the same trace"),
        ([str(tmp_path / "live"), str(tmp_path / "sim"), "--measured", "virtual"], "no run of that host"),
        ([str(tmp_path / "nowhere"), str(tmp_path / "sim")], "no such directory"),
    ):
        assert main(["compare", *words]) == 2
        captured = capsys.readouterr()
        assert said in captured.err
        assert captured.err.count("\n") == 1


def test_the_figure_names_every_policy_and_tells_them_apart_without_colour(write, tmp_path):
    """One that was not run in the first setting, too; with one setting the markers differ."""
    for host, latency in (("live", 10.0), ("sim", 9.0)):
        write(host, host, "vllm", latency)
        write(host, host, "vllm-offload", latency)
    legend = agreement(pair_up([find_runs([tmp_path / host]) for host in ("live", "sim")])).legends[0]
    markers = [handle.get_marker() for handle in legend.legend_handles if isinstance(handle, Line2D)]
    assert len(set(markers)) == 2
    for host, latency in (("live", 10.0), ("sim", 9.0)):
        write(host, host, "vllm", latency, qps=1.0)
        write(host, host, "vllm-priority", latency, qps=1.0)
    legend = agreement(pair_up([find_runs([tmp_path / host]) for host in ("live", "sim")])).legends[0]
    names = [text.get_text() for text in legend.get_texts()]
    assert sorted(names[:3]) == ["vllm", "vllm-offload", "vllm-priority"]
    assert names[3:] == ["qps=0.5", "qps=1.0", "within 10 %"]
