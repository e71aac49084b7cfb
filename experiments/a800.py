"""The setting in which TokenCake's authors measured, as a host takes it: Qwen2.5-14B on one A800-80GB.

``+experiment=official_matrix`` is the same for ``tokencake run``.
"""

from __future__ import annotations

from typing import Final

from tokencake.sim.config import EngineConfig, LinkConfig, SimConfig, WorkloadConfig
from tokencake.sim.latency.profiles import load_profile
from tokencake.sim.latency.scatter import Scatter, ScatterLatency

PROFILE: Final = "a800-qwen2.5-14b"
CLIENT_DELAY_S: Final = 0.05


def setting(seed: int, *, cpu_gib: int = 0, scatter: float = 0.0) -> SimConfig:
    """The measured setting: vLLM 0.22, asynchronous scheduling, a client that takes 50 ms.

    Args:
        seed: Seed of the run.
        cpu_gib: CPU memory for KV, in GiB; 0 has no CPU tier.
        scatter: Standard deviation of a step's time, relative to it.
    """
    profile = load_profile(PROFILE)
    block_bytes = profile.model.kv_bytes_per_token * profile.engine.block_size
    engine = EngineConfig(
        gpu_blocks=profile.usable_blocks,
        cpu_blocks=cpu_gib * 2**30 // block_bytes,
        block_size=profile.engine.block_size,
        max_num_batched_tokens=profile.engine.max_num_batched_tokens,
        max_num_seqs=profile.engine.max_num_seqs,
        max_model_len=profile.engine.max_model_len,
        async_scheduling=profile.engine.async_scheduling,
        version="0.22",
        jumps=not scatter,
    )
    latency = profile.latency_model()
    return SimConfig(
        engine,
        ScatterLatency(latency, Scatter(jitter=scatter), seed) if scatter else latency,
        profile.model.kv_bytes_per_token,
        link=LinkConfig(profile.link.d2h_gb_s, profile.link.h2d_gb_s, profile.link.per_run_us),
        workload=WorkloadConfig(client_delay_s=CLIENT_DELAY_S),
        seed=seed,
    )
