"""Recorded workloads for the simulator and for vLLM's scheduler, small enough to be run step by step."""

from dataclasses import replace
from itertools import islice

from tokencake.sim.config import EngineConfig, SimConfig, WorkloadConfig
from tokencake.sim.latency.profiles import load_profile
from tokencake.traces.generators.code_writer import CodeWriter
from tokencake.traces.importers import detect_and_import


def sessions(folder):
    """Three coding sessions of the shorter kind, all at once, on a memory that holds two of them."""
    files = sorted((folder / "weka_cc_traces").glob("*.json.gz"), key=lambda path: path.stat().st_size)[12:15]
    programs = [replace(next(iter(detect_and_import(path)[1])), arrival_s=0.0) for path in files]
    return programs, _config("h200-llama-3.1-8b", 12_000, max_model_len=200_000, max_num_batched_tokens=8192)


def conversations(folder):
    """The first requests of Mooncake's conversation trace, on a memory that several of them fill."""
    _, programs, _ = detect_and_import(folder / "mooncake" / "conversation_trace.jsonl.gz")
    return list(islice(programs, 60)), _config("h200-llama-3.1-8b", 10_000, max_model_len=200_000)


def code_writers(folder):
    """Four programs of the measured workload, asynchronously scheduled."""
    programs = list(CodeWriter(qps=1.0, programs_count=4).programs())
    return programs, _config("a800-qwen2.5-14b", 1500, async_scheduling=True, version="0.22")


def _config(profile, blocks, **settings):
    found = load_profile(profile)
    engine = EngineConfig(gpu_blocks=blocks, cpu_blocks=2 * blocks, **settings)
    workload = WorkloadConfig(client_delay_s=0.05)
    return SimConfig(engine, found.latency_model(), found.model.kv_bytes_per_token, workload=workload, seed=1)


ALL = (sessions, conversations, code_writers)
