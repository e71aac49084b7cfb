"""An empty directory to run in, and made-up results of a known shape, to test tables without a simulation."""

import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from tokencake.experiments.columns import TABLES
from tokencake.experiments.results import replacing, write_run

DEFAULTS = {"string": "x", "double": 0.0, "int64": 0, "bool": False}


def distribution(values):
    ordered = sorted(values)
    keys = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {"mean": sum(values) / len(values)} | {k: ordered[int(q * (len(ordered) - 1))] for k, q in keys.items()}


def fake_tables(latencies, pool=1000):
    tables = {}
    for name, types in TABLES.items():
        count = len(latencies) if name in ("programs", "calls") else 3
        tables[name] = {c: [DEFAULTS[kind]] * count for c, kind in types.items()}
    names = [f"p{i}" for i in range(len(latencies))]
    tables["programs"] |= {"program": names, "latency_s": latencies, "finish_s": latencies}
    tables["calls"] |= {
        "program": names,
        "call": ["c"] * len(names),
        "finish_s": latencies,
        "agent": ["a"] * len(names),
    }
    tables["transfers"] |= {"program": ["p0"] * 3, "finish_s": [1.0, 2.0, None]}
    end = max(latencies)
    kv = {"time_s": [0.0, end / 2, end], "running_blocks": [0, pool // 2, 0], "stalled_blocks": [0, pool // 4, 0]}
    tables["kv"] |= kv | {"cached_blocks": [0, pool // 8, pool // 2], "free_blocks": [pool, pool // 8, pool // 2]}
    return {name: SimpleNamespace(columns=columns) for name, columns in tables.items()}


def fake_summary(policy, seed, latencies):
    keys = ("makespan_s", "preemptions", "stalled_kv_gb_s", "kv_usage_mean", "d2h_bytes", "h2d_bytes")
    tokens = {"computed": 100, "gpu_hit": 300, "cpu_hit": 0, "recomputed": 7}
    spread = distribution(latencies)
    summary = {"host": "sim", "policy": policy, "seed": seed, "prefill_tokens": tokens} | dict.fromkeys(keys, 0.0)
    summary |= dict.fromkeys(("program_latency_s", "ttft_s", "queue_s", "prefill_s", "decode_s"), spread)
    summary |= dict.fromkeys(("prefill_preempted_s", "decode_preempted_s"), distribution([0.0]))
    count = len(latencies)
    counts = {"programs": count, "calls": count, "refused_calls": 0, "refused_programs": 0}
    return summary | {"makespan_s": max(latencies)} | counts


@pytest.fixture
def empty_directory(tmp_path, monkeypatch):
    """The test runs in an empty directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fake_run(tmp_path):
    """Write a run directory: fake_run(name, policy, qps, seed) -> path."""

    def write(name, policy="vllm", qps=0.5, seed=0, params=None, overrides=(), policy_section=None, **config) -> Path:
        repeat = [config.get(section, {}).get(key, 0) for section, key in (("live", "repeat"), ("hardware", "draw"))]
        rng = random.Random(f"{policy} {qps} {seed} {repeat}")
        slow = {"vllm": 1.0, "vllm-offload": 0.7}.get(policy, 0.9)
        latencies = [slow * (20 + 100 * qps) * rng.uniform(0.6, 1.6) for _ in range(40)]
        full = {
            "policy": policy_section or {"name": policy, "params": params or {}},
            "trace": {"qps": qps},
            "seed": seed,
            "out": name,
        } | config
        path = tmp_path / name
        with replacing(path) as directory:
            write_run(
                directory,
                config=full,
                summary=fake_summary(policy, seed, latencies),
                tables=fake_tables(latencies),
                overrides=overrides or (),
                timing={"wall_s": 0.1, "loop_cpu_s": 0.1, "peak_rss_mb": 1.0},
                decisions=SimpleNamespace(columns={"step": [1, 2], "kind": ["admit", "victim"]}),
                timeline={"traceEvents": []},
            )
        if overrides is None:
            (path / "overrides.yaml").unlink()
        return path

    return write


@pytest.fixture
def change_summary():
    """Write other values into the summary of a run directory: change_summary(path, key=value, ...)."""

    def change(path, **values):
        summary = json.loads((path / "summary.json").read_text())
        (path / "summary.json").write_text(json.dumps(summary | values))
        return path

    return change


@pytest.fixture
def write(fake_run, change_summary, tmp_path):
    """Write a run of a host that has a latency: write(directory, host, policy, latency, ...) -> directory."""

    def one(directory, host, policy, latency, repeat=0, qps=0.5, draw=0, load=(0.5, 1.5), live=(), sha=None, **config):
        name = f"{directory}/{policy}-{qps}-{repeat}-{draw}"
        hardware = {"x": host, "draw": draw}
        config |= {"host": host, "live": {"repeat": repeat, **dict(live)}, "hardware": hardware}
        path = fake_run(name, policy, qps, **config)
        spread = dict.fromkeys(("mean", "p50", "p90", "p95", "p99", "max"), latency)
        change_summary(path, host=host, program_latency_s=spread, makespan_s=2 * latency, trace_sha256=sha)
        if host == "live":
            (path / "timing.json").write_text(json.dumps({"wall_s": 1.0, "load_average": load}))
        return tmp_path / directory

    return one


@pytest.fixture
def fake_sweep(fake_run, tmp_path):
    """Three policies at three loads with four seeds; the directory that holds them."""
    jobs = []
    for policy in ("vllm", "vllm-priority", "vllm-offload"):
        for qps in (0.2, 0.5, 1.0):
            for seed in range(4):
                fake_run(f"sweep/{policy}_{qps}_{seed}", policy, qps, seed)
                jobs.append(f"{policy}_{qps}_{seed}")
    choices = [dict(zip(("policy", "trace.qps", "seed"), job.split("_"), strict=True)) for job in jobs]
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({"jobs": jobs, "choices": choices}))
    return tmp_path / "sweep"
