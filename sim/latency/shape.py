"""What a model and a GPU are, as far as time and memory are concerned."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

GIB: Final = 1 << 30
"""Bytes in a gibibyte."""


def require_positive(instance: Any) -> None:
    """Refuse a dataclass one of whose plain numbers is not > 0.

    Raises:
        ValueError: Naming the field, the rule and the value.
    """
    for field in fields(instance):
        value = getattr(instance, field.name)
        if type(value) in (int, float) and not value > 0:
            raise ValueError(f"{field.name} must be > 0, got {value}")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A dense full-attention decoder with a gated MLP (Llama, Qwen2.5, ...).

    Attributes:
        name: For people.
        layers: Number of decoder layers.
        hidden: Width of the residual stream.
        heads: Query heads per layer.
        kv_heads: Key/value heads per layer.
        head_dim: Width of one head.
        intermediate: Width of the MLP.
        vocab: Rows of the embedding.
        dtype_bytes: Bytes of a weight or an activation.
        kv_dtype_bytes: Bytes of a cached key or value element.
        tied_embeddings: Whether the output projection is the embedding.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    dtype_bytes: int = 2
    kv_dtype_bytes: int = 2
    tied_embeddings: bool = False

    def __post_init__(self) -> None:
        require_positive(self)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token, over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.kv_dtype_bytes

    @property
    def layer_parameters(self) -> int:
        """Weights of all layers' projections: Q, K, V, O and the MLP's gate, up and down."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head_parameters(self) -> int:
        """Weights of the output projection."""
        return self.hidden * self.vocab

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights; norms and biases are left out (less than 0.1 %)."""
        embeddings = self.head_parameters * (1 if self.tied_embeddings else 2)
        return self.dtype_bytes * (self.layer_parameters + embeddings)


@dataclass(frozen=True, slots=True)
class GPUSpec:
    """A device.

    Attributes:
        name: For people.
        memory_gib: Memory the engine sees, in GiB.
        peak_tflops: Dense matrix throughput in the model's number format, in 10^12 FLOP/s.
        hbm_gb_s: Memory bandwidth in 10^9 bytes/s.
    """

    name: str
    memory_gib: float
    peak_tflops: float
    hbm_gb_s: float

    def __post_init__(self) -> None:
        require_positive(self)


def kv_blocks(model: ModelShape, gpu: GPUSpec, *, block_size: int, utilization: float, reserve_gib: float) -> int:
    """Return how many KV blocks fit where nobody measured it (the null block included).

    ``floor((memory * utilization - weights - reserve) / block bytes)``, as in vLLM 0.32's
    ``determine_available_memory``, where the reserve stands for what vLLM finds by a profiling run:
    peak activations, CUDA graphs and memory outside PyTorch.
    """
    memory = gpu.memory_gib * GIB * utilization - model.weight_bytes - reserve_gib * GIB
    return int(memory // (model.kv_bytes_per_token * block_size))
