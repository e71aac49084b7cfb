"""Traces that a run reads: odd, broken, empty, too long."""

import gzip
import itertools
import json
import threading
import time
from types import SimpleNamespace

import pandas as pd
import pytest

from commands import TINY, files, refused
from tokencake.experiments import progress
from tokencake.experiments.cli import main

pytestmark = pytest.mark.usefixtures("empty_directory")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "must not be empty: the first line is a header"),
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


def test_a_trace_without_a_program_is_one_line(tmp_path, capsys):
    (tmp_path / "none.jsonl").write_text('{"format": "tokencake-trace", "version": 1, "name": "x"}\n')
    (tmp_path / "none.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n")
    for name in ("none.jsonl", "none.csv"):
        line = refused(capsys, "run", f"trace.path={name}", "out=a")
        assert line == f"tokencake: {name}: must hold at least 1 program to run, and holds none\n"
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"a,b\n1,2\n", ":1: must begin something that an importer knows (tokencake: first line {"),
        ("a.csv", b"a,b\n1,2\n", "request_list: CSV with columns arrived_at, num_prefill_tokens, num_decode_tokens;"),
        ("a.csv", b"\na,b\n", ":2: must begin something"),
        (
            "a.jsonl",
            b'{"timestamp": 3}\n',
            "mooncake: JSON Lines with timestamp, input_length, output_length,",
        ),
        ("a.jsonl", b"hello\n", "docs/traces.md), got 'hello'"),
        ("a.jsonl", b"\xff\x00", ":1: must begin something"),
        ("a.jsonl", b"", ":1: must not be empty: the first line is a header"),
        ("a.jsonl.gz", gzip.compress(b""), ":1: must not be empty: the first line is a header"),
        (
            "a.jsonl",
            b'{"program": "p", "nodes": []}\n',
            ':1: must be a header (first line {"format": "tok',
        ),
    ],
)
def test_what_is_no_trace_is_said_alike_everywhere(name, content, said, tmp_path, capsys):
    (tmp_path / name).write_bytes(content)
    words = (["run", f"trace.path={name}"], *(["trace", action, name] for action in ("inspect", "validate")))
    lines = {refused(capsys, *each) for each in (*words, ["trace", "import", name, "out.jsonl"])}
    assert len(lines) == 1
    assert f"{name}:" in str(lines) and said in lines.pop()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_recording_is_no_trace_but_can_be_made_one(tmp_path, capsys):
    (tmp_path / "list.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,10,5\n")
    line = refused(capsys, "trace", "validate", "list.csv")
    assert "list.csv: must be a trace, and is a recording (request_list); tokencake trace import makes" in line


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
    with pytest.raises(SystemExit, match="1"):
        main(("run", "trace=demo", "engine.gpu_blocks=3", f"out={tmp_path / 'a'}"))
    said = capsys.readouterr()
    assert "0 of 20 programs finished" in said.out
    assert "mean latency" not in said.out + said.err


def test_a_bar_needs_no_thread_where_cpu_time_is_measured(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, to rich
    before = threading.active_count()
    with progress.progress("here", "step", 9, ticking=False) as report:
        assert threading.active_count() == before
        report(1)
        time.sleep(0.2)
        report(7)
    assert "7 of 9 steps" in capsys.readouterr().err
    with progress.progress("here", "step", 9):
        assert threading.active_count() > before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trace=demo", "trace.programs_count=3"], "2 of 3 programs done"),
        (["trace.path=list.csv"], "2 of 3 programs done"),
        (["trace.path=list.csv", "trace.arrivals=poisson", "trace.qps=1"], "2 programs done"),
    ],
    ids=["generated", "as recorded", "streamed"],
)
def test_long_work_says_how_far_it_is(words, said, tmp_path, monkeypatch, capsys):
    """And of how much, where that is known."""
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=itertools.count(0, 60).__next__))
    (tmp_path / "list.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,9,9\n1,9,9\n2,9,9\n")
    assert main(["run", "+experiment=tiny", *words, "out=a"]) == 0
    assert [line for line in capsys.readouterr().err.splitlines() if line.endswith(f": {said}")]
