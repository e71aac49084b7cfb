"""`tokencake compare`: which runs are of one setting, and what settings are called."""

import pandas as pd
import pytest

from tokencake.experiments.agreement import compare
from tokencake.experiments.cli import main
from tokencake.experiments.pairing import pair_up
from tokencake.experiments.ranking import rankings
from tokencake.experiments.results import find_runs

MEAN = "program_latency_mean_s"


@pytest.fixture
def both(write, tmp_path):
    """Write what was measured, and a prediction 10 % above: both(name, measured, ...); called, the runs of each."""

    def one(name, measured, policy="vllm", **config):
        write(f"live/{name}", "live", policy, measured, **config)
        write(f"sim/{name}", "sim", policy, 1.1 * measured, **config)

    def found():
        return [find_runs([tmp_path / host]) for host in ("live", "sim")]

    one.found = found
    return one


@pytest.mark.parametrize(
    ("settings", "called"),
    [
        (("mon/t.jsonl", "tue/t.jsonl"), ["path=mon/t", "path=tue/t"]),
        (("a-name-of-twenty-one-letters", "a-name-of-twenty-one-lights"), None),
        (("0", 0), ["trace.path='0'", "trace.path=0"]),
    ],
)
def test_no_two_settings_have_one_name(settings, called, both, tmp_path, capsys):
    """Else the second took the place of the first: in its row, and in its ranking."""
    called = called or [f"path={path}" for path in settings]
    for i, path in enumerate(settings):
        both(f"{i}", 10.0 * (i + 1), trace={"path": path})
        both(f"{i}", 30.0 - 10.0 * i, "vllm-offload", trace={"path": path})
    assert main(["compare", str(tmp_path / "live"), str(tmp_path / "sim"), f"--out={tmp_path / 'c'}"]) == 0
    rows = [line.split(" | ") for line in (tmp_path / "c" / "compare.md").read_text().splitlines()[2:6]]
    assert [(row[0].removeprefix("| "), row[1], row[3]) for row in rows] == [
        (name, policy, latency)
        for name, latencies in zip(called, (("10.00", "30.00"), ("20.00", "20.00")), strict=True)
        for policy, latency in zip(("vllm", "vllm-offload"), latencies, strict=True)
    ]
    assert [rank.setting for rank in rankings(pair_up(both.found()))] == called
    assert len(pd.read_csv(tmp_path / "c" / "compare.csv").query("metric == @MEAN").drop_duplicates("setting")) == 2


def test_traces_that_nothing_else_tells_apart_are_called_by_their_digests(both):
    both("a", 1.0, qps=1.0, sha=64 * "a")
    both("b", 2.0, qps=1.0, sha=64 * "b")
    both("c", 3.0, qps=2.0, sha=64 * "c")
    assert {row.setting: row.measured for row in compare(pair_up(both.found())) if row.metric == MEAN} == {
        "qps=1.0, trace_sha256=aaaaaaaaaaaa": 1.0,
        "qps=1.0, trace_sha256=bbbbbbbbbbbb": 2.0,
        "qps=2.0": 3.0,
    }


def test_a_setting_that_some_runs_lack_is_said_to_be_lacking(both):
    both("a", 1.0, trace={"source": "demo", "qps": None})
    both("b", 2.0, trace={"source": "demo"})
    assert {pair.setting for pair in pair_up(both.found())} == {"qps=None", "no qps"}


def test_policies_that_differ_in_a_late_digit_are_two(both):
    for i, span in enumerate((0.1234567, 0.1234568)):
        both(f"{i}", i + 1.0, policy_section={"name": "continuum", "span_s": span})
    assert {(pair.policy, len(pair.measured)) for pair in pair_up(both.found())} == {
        ("continuum(span_s=0.1234567)", 1),
        ("continuum(span_s=0.1234568)", 1),
    }


def test_live_runs_that_differ_in_the_engine_are_no_repeats(write, tmp_path, capsys):
    """Which one is meant is for the user to say; a predicted one may be of another kind, as simulated ones are."""
    warp = write("warp", "live", "vllm", 1.0, live={"clock": "warp"})
    wall = write("wall", "live", "vllm", 9.0, repeat=1, live={"clock": "wall"})
    old = write("old", "live", "vllm", 1.1, repeat=2)
    sim = write("sim", "sim", "vllm", 1.0, live={"clock": "wall"})
    for directories in ((warp, wall, sim), (sim, old, warp, wall), (old, warp, wall)):
        assert main(["compare", *map(str, directories)]) == 2
        said = capsys.readouterr().err
        assert said == (
            f"tokencake: live.clock is warp in {warp / 'vllm-0.5-0-0'} and wall in {wall / 'vllm-0.5-1-0'}: they are no"
            " repeats of one run; name the directories of one of the two only\n"
        )
    for directories in ((warp, old, sim), (wall, sim), (warp, wall)):
        assert main(["compare", *map(str, directories), "--format=png"]) == 0
