"""A hardware profile: one model on one device, with everything a run needs to know about the pair."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from tokencake.sim.latency.base import LatencyModel, Scale
from tokencake.sim.latency.linear import LinearCoefficients, LinearLatency
from tokencake.sim.latency.roofline import Efficiency, RooflineLatency
from tokencake.sim.latency.shape import GPUSpec, ModelShape, kv_blocks, require_positive
from tokencake.sim.latency.table import LatencyTable, TableLatency

DEFAULT_UTILIZATION: Final = 0.92
"""vLLM 0.32's default of ``gpu_memory_utilization``."""

DEFAULT_RESERVE_GIB: Final = 3.1
"""What is left of the one measured pool we know (docs/hardware/README.md): 79.2 GiB * 0.5 less
Qwen2.5-14B's weights less 3,050 blocks, with budget 8192."""


@dataclass(frozen=True, slots=True)
class EngineDefaults:
    """Engine settings that belong to the pair of model and device.

    Attributes:
        max_model_len: Most tokens of one call.
        block_size: Tokens of a KV block.
        gpu_blocks: KV blocks in GPU memory, vLLM's null block included; None derives it (`kv_blocks`).
        max_num_batched_tokens: Token budget of a step.
        max_num_seqs: Most running calls.
        async_scheduling: Whether a step is scheduled while the one before it still computes.
        gpu_memory_utilization: Share of the memory that the engine may use, in (0, 1].
        reserve_gib: Memory for activations, graphs and the driver.
    """

    max_model_len: int
    block_size: int = 16
    gpu_blocks: int | None = None
    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 1024
    async_scheduling: bool = True
    gpu_memory_utilization: float = DEFAULT_UTILIZATION
    reserve_gib: float = DEFAULT_RESERVE_GIB

    def __post_init__(self) -> None:
        require_positive(self)
        if self.gpu_memory_utilization > 1:
            raise ValueError(f"gpu_memory_utilization must be in (0, 1], got {self.gpu_memory_utilization}")


@dataclass(frozen=True, slots=True)
class LinkRates:
    """The link between the GPU and the host's memory.

    Attributes:
        d2h_gb_s: GPU to host, in 10^9 bytes/s.
        h2d_gb_s: Host to GPU, in 10^9 bytes/s.
        per_run_us: Fixed cost of each contiguous run of blocks, in microseconds.
    """

    d2h_gb_s: float
    h2d_gb_s: float
    per_run_us: float = 0.0

    def __post_init__(self) -> None:
        for name in ("d2h_gb_s", "h2d_gb_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if not self.per_run_us >= 0:
            raise ValueError(f"per_run_us must be >= 0, got {self.per_run_us}")


@dataclass(frozen=True, slots=True)
class LatencySpec:
    """Which latency model, and its parameters.

    Attributes:
        kind: ``table``, ``linear`` or ``roofline``.
        file: The table, for kind ``table``.
        params: The coefficients, for kind ``linear``; the efficiencies, for kind ``roofline``.
        prefill_factor: Multiplies the prefill part of the forward time.
        decode_factor: Multiplies the decode part.
        overhead_us: Added to every step, in microseconds.
    """

    kind: Literal["table", "linear", "roofline"]
    file: Path | None = None
    params: LinearCoefficients | Efficiency | None = None
    prefill_factor: float = 1.0
    decode_factor: float = 1.0
    overhead_us: float = 0.0

    def __post_init__(self) -> None:
        _ = self.scale

    @property
    def scale(self) -> Scale:
        """The three corrections as integers."""
        return Scale.of(
            prefill_factor=self.prefill_factor, decode_factor=self.decode_factor, overhead_us=self.overhead_us
        )


@dataclass(frozen=True, slots=True)
class HardwareProfile:
    """One model on one device.

    Attributes:
        name: Its file's name without the suffix.
        description: One line for people.
        model: The model's shape.
        engine: Engine settings.
        link: The link to the host's memory.
        latency: The latency model.
        gpu: The device; None where neither the latency model nor `gpu_blocks` needs it.
    """

    name: str
    description: str
    model: ModelShape
    engine: EngineDefaults
    link: LinkRates
    latency: LatencySpec
    gpu: GPUSpec | None = None
    gpu_blocks: int = field(init=False)
    """KV blocks in GPU memory, stated or derived, vLLM's null block included."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "gpu_blocks", self._gpu_blocks())

    @property
    def usable_blocks(self) -> int:
        """KV blocks that calls can hold: `gpu_blocks` less the null block."""
        return self.gpu_blocks - 1

    @property
    def block_bytes(self) -> int:
        """Bytes of one KV block."""
        return self.model.kv_bytes_per_token * self.engine.block_size

    def latency_model(self) -> LatencyModel:
        """Make a latency model; the table is read again.

        Raises:
            ValueError: The profile lacks what its kind of model needs, or the table is malformed.
            OSError: The table cannot be read.
        """
        spec = self.latency
        if spec.kind == "table":
            if spec.file is None:
                raise ValueError("latency.file is missing: kind 'table' needs one")
            return TableLatency(LatencyTable.read(spec.file), spec.scale)
        if spec.kind == "linear":
            if not isinstance(spec.params, LinearCoefficients):
                raise ValueError("latency.params is missing: kind 'linear' needs coefficients")
            return LinearLatency(spec.params, spec.scale)
        if self.gpu is None:
            raise ValueError("gpu is missing: kind 'roofline' needs the device's peak rates")
        params = spec.params if isinstance(spec.params, Efficiency) else None
        return RooflineLatency(self.model, self.gpu, params, spec.scale)

    def _gpu_blocks(self) -> int:
        engine = self.engine
        blocks = engine.gpu_blocks
        if blocks is None:
            if self.gpu is None:
                raise ValueError("engine.gpu_blocks is missing: without gpu it cannot be derived")
            blocks = kv_blocks(
                self.model,
                self.gpu,
                block_size=engine.block_size,
                utilization=engine.gpu_memory_utilization,
                reserve_gib=engine.reserve_gib,
            )
        tokens = max(0, blocks - 1) * engine.block_size
        if tokens < engine.max_model_len:
            raise ValueError(
                f"engine.max_model_len must fit the KV memory: {engine.max_model_len} tokens asked for, "
                f"{tokens} fit ({blocks} blocks of {engine.block_size}, one of them the null block)"
            )
        return blocks
