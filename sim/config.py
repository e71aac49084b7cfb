"""What a run is made of, as frozen, validated values.

Nothing below ``experiments/`` reads configuration files; it takes these.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tokencake.sim.latency.base import LatencyModel
    from tokencake.sim.recorded_link import RecordedCopy

PS: Final = 10**12
"""Picoseconds in a second."""

VERSIONS: Final = ("0.32", "0.22")
CALL_TIMES: Final = ("dependent", "timed")


class ConfigError(ValueError):
    """A value that a run cannot use; the message names the field, the rule and the value."""


class StuckError(RuntimeError):
    """Calls wait that a policy never admits, and nothing else will happen."""


NEVER: Final = 1 << 100
"""Stands for the time (in picoseconds), or the number of a step, of what will not happen."""


def to_ps(seconds: float) -> int:
    """Seconds to integer picoseconds, to nearest."""
    return round(seconds * PS)


def wake_ps(seconds: float) -> int:
    """First picosecond at which a policy that waits for a time finds that it has come (``view.now >= seconds``)."""
    near = to_ps(seconds)
    off = (abs(near) >> 51) + 2  # two floats further
    around = range(near - off, near + off)
    return around[bisect_left(around, seconds, key=lambda ps: ps / PS)]


def _need(condition: bool, name: str, rule: str, value: object) -> None:
    if not condition:
        raise ConfigError(f"{name} must be {rule}, got {value}")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Scheduler and memory of the modelled vLLM engine; names and defaults are vLLM's.

    Attributes:
        gpu_blocks: Usable KV blocks (vLLM's ``num_gpu_blocks`` less its null block).
        block_size: Tokens in a block.
        cpu_blocks: Blocks of the CPU tier; 0 has no such tier.
        max_num_batched_tokens: Token budget of a step.
        max_num_seqs: Most running calls.
        max_model_len: Most tokens of a call, prompt and output.
        long_prefill_token_threshold: Most prefill tokens of a call in a step; 0 is no limit.
        prefix_caching: Whether full blocks are hashed and can be hit.
        reserve_full_isl: A call starts only if its whole known input fits.
        watermark: Part of the pool kept free at admissions while something runs.
        async_scheduling: Plan a step while the one before it runs (vLLM's default on GPUs).
        version: vLLM release whose rules apply, ``0.32`` or ``0.22``.
        jumps: Take runs of equal decode steps at once.
        runs: Keep memory as runs of blocks instead of single blocks.
    """

    gpu_blocks: int
    block_size: int = 16
    cpu_blocks: int = 0
    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 256
    max_model_len: int = 32768
    long_prefill_token_threshold: int = 0
    prefix_caching: bool = True
    reserve_full_isl: bool = True
    watermark: float = 0.0
    async_scheduling: bool = False
    version: str = "0.32"
    jumps: bool = True
    runs: bool = True

    def __post_init__(self) -> None:
        for name in ("gpu_blocks", "block_size", "max_num_batched_tokens", "max_num_seqs"):
            _need(getattr(self, name) > 0, f"engine.{name}", "> 0", getattr(self, name))
        _need(self.max_model_len > 1, "engine.max_model_len", "> 1", self.max_model_len)
        for name in ("cpu_blocks", "long_prefill_token_threshold"):
            _need(getattr(self, name) >= 0, f"engine.{name}", ">= 0", getattr(self, name))
        _need(0 <= self.watermark < 1, "engine.watermark", ">= 0 and < 1", self.watermark)
        _need(self.version in VERSIONS, "engine.version", f"one of {VERSIONS}", self.version)

    @property
    def watermark_blocks(self) -> int:
        """Blocks that the watermark keeps free (the null block counts, as in vLLM)."""
        return int(self.watermark * (self.gpu_blocks + 1))

    @property
    def pipeline(self) -> int:
        """Steps that may be scheduled and not ended (``max_concurrent_batches``)."""
        return 2 if self.async_scheduling else 1


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """The GPU-CPU link: two independent directions.

    Attributes:
        d2h_gb_s: Bandwidth from GPU to CPU, in 1e9 bytes per second.
        h2d_gb_s: Bandwidth from CPU to GPU.
        per_run_us: Fixed cost of each contiguous run of blocks, in microseconds.
        free: Transfers take no time (an upper bound, not a machine).
    """

    d2h_gb_s: float = 25.0
    h2d_gb_s: float = 25.0
    per_run_us: float = 0.0
    free: bool = False

    def __post_init__(self) -> None:
        for name in ("d2h_gb_s", "h2d_gb_s"):
            value = getattr(self, name)
            _need(value > 0 and math.isfinite(value), f"link.{name}", "> 0", value)
        _need(self.per_run_us >= 0, "link.per_run_us", ">= 0", self.per_run_us)


@dataclass(frozen=True, slots=True)
class WorkloadConfig:
    """How a trace is replayed.

    Attributes:
        calls: ``dependent``: a node waits for its dependencies only (closed loop); ``timed``: also
            for its recorded time (open loop).
        client_delay_s: From the end of a node to the arrival of the calls that follow it.
        concurrency: Programs at once; the next one starts when one ends (0: by arrival time).
    """

    calls: str = "dependent"
    client_delay_s: float = 0.0
    concurrency: int = 0

    def __post_init__(self) -> None:
        _need(self.calls in CALL_TIMES, "workload.calls", f"one of {CALL_TIMES}", self.calls)
        _need(self.concurrency >= 0, "workload.concurrency", ">= 0", self.concurrency)
        delay = self.client_delay_s
        _need(0 <= delay < 1e6, "workload.client_delay_s", ">= 0 and < 1e6", delay)


@dataclass(frozen=True, slots=True)
class SimConfig:
    """Everything a run needs besides programs and policy.

    Attributes:
        engine: Scheduler and memory.
        latency: Time of a step; a run takes a fresh one like it and leaves this as it is.
        kv_bytes_per_token: Size of one token's KV.
        link: GPU-CPU link.
        workload: How the trace is replayed.
        infinite_kv: Nothing is ever evicted (an upper bound).
        free_recompute: Recomputing costs no time, only memory (an upper bound).
        noise: Standard deviation of the log of what a noisy oracle sees.
        seed: Seed of all random streams.
        log_decisions: Keep the decision log.
        copies: Times that transfers were measured to take, in the order in which they began; by default they take
            what the link says.
    """

    engine: EngineConfig
    latency: LatencyModel
    kv_bytes_per_token: int
    link: LinkConfig = field(default_factory=LinkConfig)
    workload: WorkloadConfig = field(default_factory=WorkloadConfig)
    infinite_kv: bool = False
    free_recompute: bool = False
    noise: float = 0.5
    seed: int = 0
    log_decisions: bool = False
    copies: Sequence[RecordedCopy] | None = None

    def __post_init__(self) -> None:
        _need(self.kv_bytes_per_token > 0, "kv_bytes_per_token", "> 0", self.kv_bytes_per_token)
        _need(0 <= self.noise < 10, "noise", ">= 0 and < 10", self.noise)

    @property
    def block_bytes(self) -> int:
        """Bytes of one KV block."""
        return self.kv_bytes_per_token * self.engine.block_size
