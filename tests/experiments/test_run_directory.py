"""What a run leaves behind: complete, equal bytes for equal runs, never overwritten unless asked."""

import gzip
import json
import subprocess
import sys
from itertools import pairwise

import pandas as pd
import pytest

from commands import TINY, files, refused
from tokencake.experiments.cli import main
from tokencake.experiments.columns import TABLES

FILES = {"config.yaml", "overrides.yaml", "summary.json", "timing.json"} | {f"{name}.parquet" for name in TABLES}

pytestmark = pytest.mark.usefixtures("empty_directory")


def test_a_run_directory_is_complete(tmp_path, capsys):
    assert main([*TINY, "out=runs/a"]) == 0
    assert {p.name for p in (tmp_path / "runs" / "a").iterdir()} == FILES
    assert "-> runs/a" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["runs"], "Hydra left something behind"
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["a"]


def test_summary_has_the_documented_keys(tmp_path):
    assert main([*TINY, "out=a", "seed=3"]) == 0
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert (summary["host"], summary["policy"], summary["seed"]) == ("sim", "vllm", 3)
    assert len(summary["trace_sha256"]) == 64
    promised = (
        "programs calls makespan_s program_latency_s ttft_s queue_s output_tokens prefill_tokens preemptions "
        "kv_usage_mean kv_effective_mean stalled_kv_gb_s d2h_bytes h2d_bytes d2h_time_s h2d_time_s "
        "offload_wasted_bytes upload_late_s free_list_turnover_s critical_inversions steps"
    )
    assert set(promised.split()) <= set(summary)
    assert set(summary["prefill_tokens"]) == {"computed", "gpu_hit", "cpu_hit", "recomputed"}
    for key in ("program_latency_s", "ttft_s", "queue_s"):
        assert set(summary[key]) == {"mean", "p50", "p90", "p95", "p99", "max"}
    assert set(json.loads((tmp_path / "a" / "timing.json").read_text())) >= {"wall_s", "loop_cpu_s", "peak_rss_mb"}


def test_optional_outputs(tmp_path):
    assert main([*TINY, "out=a", "log.decisions=true", "timeline=true"]) == 0
    assert {p.name for p in (tmp_path / "a").iterdir()} == FILES | {"decisions.jsonl.zst", "timeline.json.gz"}
    with gzip.open(tmp_path / "a" / "timeline.json.gz") as file:
        events = json.load(file)["traceEvents"]
    kinds = {event.get("cat") for event in events}
    assert {"llm", "tool", "decode"} <= kinds
    assert all(event["dur"] >= 0 for event in events if event["ph"] == "X")
    threads = {(e["pid"], e["tid"]) for e in events if e.get("name") == "thread_name"}
    assert threads >= {(e["pid"], e["tid"]) for e in events if e["ph"] == "X"}


def test_slices_of_a_track_do_not_overlap(tmp_path):
    assert main([*TINY, "out=a", "timeline=true"]) == 0
    with gzip.open(tmp_path / "a" / "timeline.json.gz") as file:
        events = json.load(file)["traceEvents"]
    tracks = {}
    for event in events:
        if event["ph"] == "X" and event["cat"] in ("llm", "tool"):
            tracks.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    for slices in tracks.values():
        slices.sort()
        assert all(a[1] <= b[0] + 0.01 for a, b in pairwise(slices))


def test_a_free_directory_is_found_when_none_is_given(tmp_path):
    assert main(TINY) == 0
    assert main(TINY) == 0
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {"run-001", "run-002"}


def test_equal_runs_are_equal_bytes_across_processes_and_hash_seeds(tmp_path):
    outputs = []
    for hash_seed in ("0", "1", "77"):
        words = [*TINY, "policy=vllm-offload", "out=a", "overwrite=true", "log.decisions=true", "timeline=true"]
        command = [sys.executable, "-m", "tokencake.experiments.cli", *words]
        environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}
        subprocess.run(command, check=True, cwd=tmp_path, env=environment, capture_output=True)
        outputs.append(files(tmp_path / "a"))
        del outputs[-1]["timing.json"]
    assert outputs[0] == outputs[1] == outputs[2]


def test_another_seed_is_another_run(tmp_path):
    for seed in (0, 1):
        assert main([*TINY, f"seed={seed}", f"out={seed}"]) == 0
    assert files(tmp_path / "0")["programs.parquet"] != files(tmp_path / "1")["programs.parquet"]


def test_overwrite_replaces_the_run(tmp_path, capsys):
    assert main([*TINY, "out=a"]) == 0
    before = files(tmp_path / "a")
    capsys.readouterr()
    assert "overwrite=true" in refused(capsys, *TINY, "seed=1", "out=a")
    assert files(tmp_path / "a") == before
    assert main([*TINY, "seed=1", "out=a", "overwrite=true"]) == 0
    assert files(tmp_path / "a") != before


def test_memory_over_time_has_the_mean_of_the_summary(tmp_path):
    """However long nothing happens after a moment that was not sampled."""
    rows = [f"{start + i / 100},{100 + 40 * i},{9 + i}" for start in (0, 5, 90000) for i in range(30)]
    text = "\n".join(["arrived_at,num_prefill_tokens,num_decode_tokens", *rows])
    (tmp_path / "list.csv").write_text(text + "\n")
    assert main(["run", "+experiment=tiny", "trace.path=list.csv", "out=a"]) == 0
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    kv = pd.read_parquet(tmp_path / "a" / "kv.parquet")
    blocks = kv[["running_blocks", "stalled_blocks", "cached_blocks", "free_blocks"]]
    assert set(blocks.sum(axis=1)) == {119}
    assert blocks.min().min() >= 0
    assert kv["time_s"].is_monotonic_increasing
    assert kv["time_s"].iloc[-1] == summary["makespan_s"]
    used = (kv["running_blocks"] * kv["time_s"].diff().shift(-1)).sum() / summary["makespan_s"] / 119
    assert used == pytest.approx(summary["kv_usage_mean"], rel=0.02)
