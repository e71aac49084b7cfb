"""Speed of the simulator; figures, never assertions (``make bench``).

The 16,000-request list is the one other simulators are compared at; it lies outside the repository,
so a list of the same shape is drawn where it is absent. ``extra_info`` holds requests per CPU second.
"""

from __future__ import annotations

import csv
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tokencake.policies import registry
from tokencake.policies.api import Policy
from tokencake.policies.vllm_offload import VllmOffload
from tokencake.sim.config import EngineConfig, SimConfig, WorkloadConfig
from tokencake.sim.latency.profiles import load_profile
from tokencake.sim.run import simulate
from tokencake.traces.generators.code_writer import CodeWriter
from tokencake.traces.schema import LLMNode, Piece, Program

SIZES = (1000, 4000, 16000)


def rows(shared: Path | None, size: int) -> list[tuple[float, int, int]]:
    """(arrival s, prompt tokens, output tokens) of the request list."""
    if shared is not None:
        with (shared / "bench" / f"conv_n{size}_qps4.csv").open() as file:
            return [
                (float(r["arrived_at"]), int(r["num_prefill_tokens"]), int(r["num_decode_tokens"]))
                for r in csv.DictReader(file)
            ]
    rng = random.Random(0)
    at, drawn = 0.0, []
    for _ in range(size):
        at += rng.expovariate(4.0)
        prompt = min(4000, max(16, round(rng.lognormvariate(6.5, 1.1))))
        drawn.append((at, prompt, max(1, min(4096 - prompt, round(rng.lognormvariate(5.0, 0.9))))))
    return drawn


def programs(shared: Path | None, size: int) -> list[Program]:
    """The request list as programs of one call with unique content."""
    return [
        Program(f"r{i}", "list", at, (LLMNode("c", (), "a", "a", (Piece(f"p{i}", p),), o),))
        for i, (at, p, o) in enumerate(rows(shared, size))
    ]


def list_config(*, offload: bool) -> SimConfig:
    profile = load_profile("a100-llama-3-8b")
    engine = EngineConfig(
        gpu_blocks=profile.usable_blocks,
        max_num_batched_tokens=512,
        max_num_seqs=128,
        max_model_len=8192,
        prefix_caching=offload,
        cpu_blocks=34_000 if offload else 0,
    )
    return SimConfig(engine, profile.latency_model(), profile.model.kv_bytes_per_token)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["vllm", "vllm-offload"])
def test_request_list(benchmark: Any, shared_or_none: Path | None, size: int, name: str) -> None:
    trace = programs(shared_or_none, size)
    policy: type[Policy] = VllmOffload if name == "vllm-offload" else Policy

    def run() -> Any:
        return simulate(trace, list_config(offload=name == "vllm-offload"), policy())

    result = benchmark.pedantic(run, rounds=3, iterations=1)
    assert result.summary["calls"] == size
    benchmark.extra_info["requests_per_cpu_s"] = round(size / result.timing["loop_cpu_s"])
    benchmark.extra_info["peak_rss_mb"] = round(result.timing["peak_rss_mb"])


def test_request_list_sched_sim(benchmark: Any, shared_or_none: Path | None) -> None:
    """The fastest Python peer on the same 4,000 requests, beside ours in one run."""
    engine = pytest.importorskip(
        "sched_sim.core.event_engine", reason="sched-sim is not installed (pip install sched-sim)"
    )
    request = pytest.importorskip("sched_sim.core.request").Request
    presets = pytest.importorskip("sched_sim.hardware.presets")
    factory = pytest.importorskip("sched_sim.schedulers.factory")
    drawn = rows(shared_or_none, 4000)

    def setup() -> tuple[tuple[Any], dict[str, Any]]:
        hardware = presets.get_hardware_profile("a100")
        scheduler = factory.create_scheduler("chunked", hardware, token_budget=512, max_batch_size=128)
        simulator = engine.Simulator(hardware, scheduler)
        simulator.submit_workload(
            [
                request(request_id=str(i), arrived_at=at, prompt_tokens=p, output_tokens=o)
                for i, (at, p, o) in enumerate(drawn)
            ]
        )
        return (simulator,), {}

    benchmark.pedantic(lambda simulator: simulator.run(), setup=setup, rounds=3, iterations=1)


@pytest.mark.parametrize("name", ["vllm", "tokencake", "tokencake-upstream"])
def test_code_writer(benchmark: Any, name: str) -> None:
    """24 Code-Writer programs, over 600 simulated seconds."""
    profile = load_profile("a800-qwen2.5-14b")
    trace = list(CodeWriter(qps=1.0).programs())
    engine = EngineConfig(
        gpu_blocks=profile.usable_blocks,
        cpu_blocks=0 if name == "vllm" else 34_133,
        max_num_seqs=1024,
        async_scheduling=True,
        version="0.22",
    )
    config = SimConfig(
        engine,
        profile.latency_model(),
        profile.model.kv_bytes_per_token,
        workload=WorkloadConfig(client_delay_s=0.05),
    )

    def run() -> Any:
        return simulate(trace, replace(config, latency=profile.latency_model()), registry.create(name))

    result = benchmark.pedantic(run, rounds=3, iterations=1)
    assert result.summary["makespan_s"] > 600
    benchmark.extra_info["loop_cpu_s"] = round(result.timing["loop_cpu_s"], 2)
