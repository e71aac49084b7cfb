"""What tables, figures and comparisons make of runs in which programs were refused: nothing measured is no 0."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from commands import refused
from small import two_turns, world
from tokencake.experiments import tables
from tokencake.experiments.cli import main
from tokencake.experiments.comparison import METRICS, aggregate, collect, paired
from tokencake.experiments.errors import UsageError
from tokencake.experiments.outcome import play
from tokencake.experiments.pairing import pair_up
from tokencake.experiments.plots.by_policy import by_policy
from tokencake.experiments.plots.latency_cdf import latency_cdf
from tokencake.experiments.plots.latency_load import latency_load
from tokencake.experiments.plots.memory import memory
from tokencake.experiments.results import Run, find_runs
from tokencake.policies.api import Policy
from tokencake.traces.io import write_trace
from tokencake.traces.schema import Header

LENGTHS = (100, 1700, 3000)
"""Longest calls under which no program of `SMALL` fits, some do, and all."""
SMALL = ("+experiment=tiny", "trace=demo", "trace.programs_count=6", "trace.qps=2", "seed=range(2)")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    out = tmp_path_factory.mktemp("refused") / "s"
    lengths = f"engine.max_model_len={','.join(map(str, LENGTHS))}"
    assert main(["run", "-m", *SMALL, "policy=vllm,vllm-priority", lengths, f"out={out}"]) == 0
    return out


@pytest.fixture(scope="module")
def comparison(sweep):
    return collect(find_runs([sweep]))


def notes_of(figure):
    return figure.get_supxlabel()


def test_rows_say_how_many_programs_finished_and_nothing_is_measured_of_none(comparison):
    head, body, _ = tables.rows(comparison)
    at = head.index("finished")
    assert [row[at] for row in body[:2]] == ["0 of 6"] * 2
    assert all(re.fullmatch(r"[1-5]( to [1-5])? of 6", row[at]) for row in body[2:4])
    assert [row[at] for row in body[4:]] == ["all"] * 2
    assert all(not any(row[at + 1 :]) for row in body[:2])
    assert all(all(row[head.index("p95 latency (s)") :]) for row in body[2:])
    text = tables.caption(comparison)
    assert re.search(r"Refused in each run: 0 to 6 calls, 0 to 6 programs; latencies are of those that finished", text)
    assert "not compared" not in text


def test_what_was_not_measured_is_empty_in_the_files(sweep):
    table = pd.read_csv(sweep / "sweep.csv")
    none = table[table["engine.max_model_len"] == LENGTHS[0]]
    assert none[list(METRICS)].isna().all(axis=None)
    assert none["refused_programs"].tolist() == none["programs"].tolist() == [6, 6]
    assert set(pd.read_csv(sweep / "paired.csv")["engine.max_model_len"]) == set(LENGTHS[1:])


def test_calls_of_programs_that_did_not_finish_are_no_result(tmp_path, monkeypatch):
    """Something was computed, and took its time, but not one program got its answer."""
    monkeypatch.chdir(tmp_path)
    write_trace("t.jsonl", Header("t"), [two_turns(f"p{i}") for i in range(3)])
    words = ["+experiment=tiny", "trace.path=t.jsonl", "policy=vllm,mori", "engine.max_model_len=100"]
    with pytest.raises(SystemExit):
        main(["run", "-m", *words, "out=s"])
    summary = Run(tmp_path / "s" / "vllm").summary
    assert (summary["calls"], summary["refused_programs"]) == (3, 3) and summary["makespan_s"] > 0
    assert pd.read_csv(tmp_path / "s" / "sweep.csv")[list(METRICS)].isna().all(axis=None)


def test_figures_have_no_point_of_what_did_not_run_and_say_how_many_programs_they_are_of(comparison):
    for figure in (latency_cdf(comparison), latency_load(comparison)):
        text = notes_of(figure).replace("\n", " ")
        assert "Programs that finished: 0 of 6 (longest call 100 tokens); " in text
        assert "of 6 (longest call 1,700 tokens); all (longest call 3,000 tokens). The others were refused" in text
    assert "A line joins points of the same programs. Where a run finished none is no point." in text
    for axis in latency_load(comparison).axes:
        assert list(axis.get_xticks()) == list(LENGTHS[1:]), "no room for a load without a point"
    assert not any(len(line.get_xdata()) for line in latency_cdf(comparison).axes[0].lines)


def test_runs_in_which_nothing_ran_have_a_table(sweep, capsys, tmp_path):
    nothing = sorted(str(path) for path in sweep.glob("*_max_model_len-100*"))
    comparison = collect(find_runs(map(Path, nothing)))
    assert memory(comparison) is None, "memory that nobody used"
    assert main(["plot", *nothing, "--out", str(tmp_path / "f"), "--format=svg"]) == 0
    assert capsys.readouterr().out.count("0 of 6") == 2


def with_refused(run, count):
    """Make the last programs of a made-up run refused ones."""
    programs = run.table("programs")
    last = programs.index[len(programs) - count :]
    programs.loc[last, "refused"] = True
    programs.loc[last, "latency_s"] = np.nan
    programs.to_parquet(run.path / "programs.parquet")
    changed = run.summary | {"refused_programs": count, "refused_calls": count}
    (run.path / "summary.json").write_text(json.dumps(changed))
    return Run(run.path)


def test_means_over_different_programs_are_not_compared(fake_run):
    """Seed by seed: here seed 1, and all of the policy that knows the future."""
    runs = [with_refused(Run(fake_run(f"a{seed}", "vllm", seed=seed)), 5) for seed in range(3)]
    runs += [with_refused(Run(fake_run(f"b{s}", "mori", seed=s)), 7 if s == 1 else 5) for s in range(3)]
    runs += [Run(fake_run(f"c{seed}", "srpf", seed=seed)) for seed in range(3)]
    comparison = collect(runs)
    assert aggregate(comparison)["finished"].tolist() == ["35 of 40", "33 to 35 of 40", ""]
    differences = paired(comparison, ("latency_mean_s",))
    assert differences[["policy", "seeds"]].to_numpy().tolist() == [["mori", 2]]
    text = tables.markdown(comparison)
    assert "Where other programs finished than under vllm, the two are not compared." in text
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in text.splitlines()}
    assert rows["mori"][3].endswith("(2 seeds)") and rows["srpf"][3] == ""
    figure = by_policy(comparison)
    assert figure.axes[0].get_yticklabels()[0].get_text() == "srpf (not comparable)"
    note = notes_of(figure).replace("\n", " ")
    assert "Programs that finished: 35 of 40 (vllm); 33 to 35 of 40 (mori); all (srpf)." in note


def test_no_line_joins_means_over_different_programs(fake_run):
    """At the lowest load some are refused, and it is no surprise that those that are left are fast."""
    runs = [Run(fake_run(f"{p}-{q}", p, qps=q)) for p in ("vllm", "mori") for q in (0.1, 0.2, 0.5, 1.0)]
    runs[0], runs[1] = (with_refused(run, 5) for run in runs[:2])
    runs[4] = with_refused(runs[4], 5)
    for row in (5, 6, 7):
        runs[row] = with_refused(runs[row], 40)
    comparison = collect(runs)
    comparison.frame.loc[[5, 6, 7], ["latency_mean_s", "latency_p95_s"]] = np.nan
    for axis in latency_load(comparison).axes:
        lines = [(list(line.get_xdata()), line.get_markerfacecolor() == "white") for line in axis.lines]
        assert lines == [([0.1, 0.2], True), ([0.5, 1.0], False), ([0.1], True)]
    texts = [text.get_text() for text in latency_load(comparison).legends[0].get_texts()]
    assert texts == ["vllm", "mori", "some programs refused"]


def test_names_that_hold_commas_are_told_apart(fake_run):
    runs = []
    for arrivals, count in (("poisson", 5), ("uniform", 7)):
        section = {"arrivals": arrivals, "qps": 1.0}
        paths = [fake_run(f"{arrivals}-{policy}", policy, trace=section) for policy in ("vllm", "mori")]
        runs += [with_refused(Run(path), count) for path in paths]
    text = notes_of(latency_cdf(collect(runs))).replace("\n", " ")
    assert "35 of 40 (vllm, arrivals=poisson; mori, arrivals=poisson); 33 of 40 (vllm, arrivals=uniform; " in text


def test_compare_leaves_out_runs_without_latency_and_says_what_was_refused(fake_run, capsys, tmp_path):
    pairs = {}
    for policy, predicted, measured in (("vllm", 5, 5), ("mori", 5, 3), ("srpf", 0, 0), ("saga", 40, 40)):
        for host, count in (("sim", predicted), ("live", measured)):
            run = Run(fake_run(f"{host}/{policy}", policy, host=host))
            run.summary["host"] = host
            pairs[host, policy] = with_refused(run, count)
    assert main(["compare", str(tmp_path / "live"), str(tmp_path / "sim"), "--format=svg"]) == 0
    captured = capsys.readouterr()
    for host in ("live", "sim"):
        assert f"left out: {tmp_path / host / 'saga'} finished no program" in captured.err
    text = (tmp_path / "live" / "compare" / "compare.md").read_text()
    assert "Refused, and in no latency: up to 5 programs a run, the same on both sides (vllm)." in text
    assert "Refused, and in no latency: up to 5 programs a run, not the same on both sides (mori)." in text
    alone = [str(tmp_path / host / "saga") for host in ("live", "sim")]
    assert "saga finished no program: no run that went to its end" in refused(capsys, "compare", *alone)


def test_pairs_are_of_runs_that_went_to_their_end(fake_run, change_summary):
    runs = [Run(fake_run(f"{host}{i}", seed=0, host=host, live={"repeat": i})) for host in ("s", "l") for i in (0, 1)]
    change_summary(runs[1].path, interrupted=True)
    runs = [Run(run.path) for run in runs]
    (pair,) = pair_up([runs[:2], runs[2:]])
    assert len(pair.measured) + len(pair.predicted) == 3
    change_summary(runs[0].path, interrupted=True)
    with pytest.raises(UsageError, match="were interrupted: no run that went to its end"):
        pair_up([[Run(run.path) for run in runs[:2]], runs[2:]])


def test_claims_are_of_programs_that_all_ran():
    programs = [two_turns(f"p{i}") for i in range(3)]
    assert play(programs, world(), Policy()).latency_s > 0
    with pytest.raises(ValueError, match="programs refused must be 0, got 3"):
        play(programs, world(gpu_blocks=3), Policy())
