"""Fast equals slow on recorded workloads: jumps and runs change no byte of the output."""

import os
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from tokencake.policies import registry
from tokencake.sim.config import EngineConfig, SimConfig, WorkloadConfig
from tokencake.sim.latency.profiles import load_profile
from tokencake.sim.run import simulate
from tokencake.traces.generators.code_writer import CodeWriter
from tokencake.traces.importers import detect_and_import

SLOW = pytest.mark.slow
POLICIES = ("vllm", "vllm-priority", "vllm-offload", "tokencake-upstream", pytest.param("random", marks=SLOW))


@pytest.fixture(scope="session")
def recorded():
    """The folder of recorded traces (TOKENCAKE_SHARED, by default ../shared beside the repository)."""
    default = Path(__file__).resolve().parents[2].parent / "shared"
    path = Path(os.environ.get("TOKENCAKE_SHARED", default)) / "traces"
    if not path.is_dir():
        pytest.skip(f"recorded traces are not at {path}; set TOKENCAKE_SHARED")
    return path


def sessions(folder):
    """Three coding sessions of the shorter kind, all at once, on a memory that holds two of them."""
    files = sorted((folder / "weka_cc_traces").glob("*.json.gz"), key=lambda path: path.stat().st_size)[12:15]
    programs = [replace(next(iter(detect_and_import(path)[1])), arrival_s=0.0) for path in files]
    return programs, engine("h200-llama-3.1-8b", 12_000, max_model_len=200_000, max_num_batched_tokens=8192)


def conversations(folder):
    """The first requests of Mooncake's conversation trace, on a memory that several of them fill."""
    _, programs, _ = detect_and_import(folder / "mooncake" / "conversation_trace.jsonl.gz")
    return list(islice(programs, 60)), engine("h200-llama-3.1-8b", 10_000, max_model_len=200_000)


def code_writers(folder):
    """Four programs of the measured workload, asynchronously scheduled."""
    programs = list(CodeWriter(qps=1.0, programs_count=4).programs())
    return programs, engine("a800-qwen2.5-14b", 1500, async_scheduling=True, version="0.22")


def engine(name, blocks, **settings):
    profile = load_profile(name)
    config = EngineConfig(gpu_blocks=blocks, cpu_blocks=2 * blocks, **settings)
    workload = WorkloadConfig(client_delay_s=0.05)
    return SimConfig(config, profile.latency_model(), profile.model.kv_bytes_per_token, workload=workload, seed=1)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("workload", [sessions, conversations, code_writers], ids=lambda make: make.__name__)
def test_jumps_and_runs_change_nothing(workload, policy, recorded, with_engine):
    results = []
    for fast in (False, True):
        programs, config = workload(
            recorded
        )  # a latency model counts the steps beyond its range, so each run has its own
        results.append(simulate(programs, with_engine(config, jumps=fast, runs=fast), registry.create(policy, {})))
    assert results[0].summary["steps"] > 500
    slow, fast = (
        repr([table.columns for table in (r.programs, r.calls, r.transfers, r.kv, r.decisions)] + [r.summary])
        for r in results
    )
    assert fast == slow
