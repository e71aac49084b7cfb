"""Traces that a run reads: odd, broken, empty, too long."""

import json

import pandas as pd
import pytest

from commands import TINY, files, refused
from tokencake.experiments.cli import main

pytestmark = pytest.mark.usefixtures("empty_directory")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "importer knows"),
        (["{}"], "importer knows"),
        (['{"format": "tokencake-trace", "version": 99, "name": "x"}'], "version"),
        (['{"format": "tokencake-trace", "version": 1, "name": "x"}', "{"], "bad.jsonl:2"),
        (['{"format": "tokencake-trace", "version": 1, "name": "x"}', '{"program": "p", "app": "a"}'], "bad.jsonl:2"),
    ],
)
def test_a_broken_trace_writes_nothing_and_leaves_earlier_results(lines, said, tmp_path, capsys):
    assert main([*TINY, "out=a"]) == 0
    before = files(tmp_path / "a")
    (tmp_path / "bad.jsonl").write_text("\n".join(lines))
    capsys.readouterr()
    assert said in refused(capsys, "run", "trace.path=bad.jsonl", "out=a", "overwrite=true")
    assert said in refused(capsys, "run", "-m", "trace.path=bad.jsonl", "seed=0,1", "out=sweep")
    assert files(tmp_path / "a") == before
    assert {p.name for p in tmp_path.iterdir()} == {"a", "bad.jsonl"}


def test_programs_may_stand_in_any_order(tmp_path, capsys):
    """Sorted by arrival, those of one time in the order of the file; and it is said."""
    rows = ["9,100,2", "1,200,2", "9,300,2", "20,400,2"]
    for name, order in (("any", rows), ("sorted", [rows[1], rows[0], *rows[2:]])):
        lines = ["arrived_at,num_prefill_tokens,num_decode_tokens", *order]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
        assert main(["run", "+experiment=tiny", f"trace.path={name}.csv", f"out={name}"]) == 0
        said = "sorted by arrival (1 time)" in capsys.readouterr().err
        assert said == (name == "any")
    tables = [pd.read_parquet(tmp_path / name / "calls.parquet") for name in ("any", "sorted")]
    columns = ["arrival_s", "prompt_tokens", "finish_s"]
    assert tables[0][columns].equals(tables[1][columns])


def test_an_empty_trace_is_an_empty_result_or_one_line(tmp_path, capsys):
    (tmp_path / "none.jsonl").write_text('{"format": "tokencake-trace", "version": 1, "name": "x"}\n')
    code = main(["run", "trace.path=none.jsonl", "out=a"])
    assert code == 0
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["programs"] == 0


def test_a_truncated_archive_is_one_line(tmp_path, capsys):
    assert main(["trace", "generate", "demo", "whole.jsonl.gz"]) == 0
    capsys.readouterr()
    (tmp_path / "cut.jsonl.gz").write_bytes((tmp_path / "whole.jsonl.gz").read_bytes()[:-200])
    assert "complete compressed file" in refused(capsys, "run", "trace.path=cut.jsonl.gz", "out=a")
    assert not (tmp_path / "a").exists()


def test_refused_calls_are_said_and_counted(tmp_path, capsys):
    (tmp_path / "list.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,100,10\n1.5,5000,20\n")
    assert main(["run", "+experiment=tiny", "trace.path=list.csv", "out=a"]) == 0
    assert "1 call in 1 program refused" in capsys.readouterr().err
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert (summary["programs"], summary["calls"], summary["refused_calls"]) == (2, 1, 1)


def test_steps_beyond_the_measured_range_are_said(tmp_path, capsys):
    (tmp_path / "list.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,100000,10\n")
    words = ["hardware=h100-llama-3.1-8b", "engine.max_model_len=200000", "engine.max_num_batched_tokens=200000"]
    assert main(["run", "trace.path=list.csv", "out=a", *words]) == 0
    assert "beyond what the hardware profile was measured for" in capsys.readouterr().err


def test_a_run_in_which_nothing_fits_claims_no_latency(tmp_path, capsys):
    assert main(("run", "trace=demo", "engine.gpu_blocks=3", f"out={tmp_path / 'a'}")) == 0
    said = capsys.readouterr()
    assert "no program could run" in said.out + said.err
    assert "mean latency" not in said.out + said.err
