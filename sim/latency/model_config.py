"""Reads the ``config.json`` of a Hugging Face model: what it is, and whether it is one that is modelled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokencake.sim.latency.shape import ModelShape

_NOT_DENSE: Final = (
    *("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_experts_per_tok"),
    *("sliding_window_pattern", "attention_chunk_size", "kv_lora_rank", "mamba_d_state", "hybrid_override_pattern"),
)
"""Keys of models that are not what `ModelShape` describes: experts, windows, latent attention, state spaces."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A dense full-attention decoder, as its configuration describes it.

    Attributes:
        shape: Its shape, with 16-bit weights and KV; ``dtype`` may say otherwise.
        dtype: Number format that the configuration names, as vLLM spells it.
        max_len: Most tokens that its positions allow.
    """

    shape: ModelShape
    dtype: str
    max_len: int


def read_config(folder: Path) -> ModelConfig:
    """Read a folder's ``config.json``.

    Raises:
        ValueError: There is no such file, a key is missing, or it is no dense full-attention decoder with plain
            weights; the text is one line that names file, key, value and rule.
    """
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot read the model's config: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: must be a JSON object, got {type(values).__name__}")
    try:
        return parse_config(values, Path(str(values.get("_name_or_path") or folder.resolve())).name)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse_config(values: Mapping[str, Any], name: str) -> ModelConfig:
    """What a configuration says.

    Args:
        values: Content of a ``config.json``.
        name: Of the model, for people.

    Raises:
        ValueError: naming key, value and rule.
    """
    _check_kind(values)

    def number(key: str) -> int:
        value = values.get(key)
        if value is None:
            raise ValueError(f"{key} is missing")
        if type(value) is not int:
            raise ValueError(f"{key} must be a whole number, got {value!r}")
        return value

    heads, hidden = number("num_attention_heads"), number("hidden_size")
    shape = ModelShape(
        name=name,
        layers=number("num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=number("num_key_value_heads") if values.get("num_key_value_heads") else heads,
        head_dim=number("head_dim") if values.get("head_dim") else hidden // max(1, heads),
        intermediate=number("intermediate_size"),
        vocab=number("vocab_size"),
        tied_embeddings=bool(values.get("tie_word_embeddings", False)),
    )
    dtype = str(values.get("torch_dtype") or values.get("dtype") or "bfloat16")
    return ModelConfig(shape, dtype, number("max_position_embeddings"))


def _check_kind(values: Mapping[str, Any]) -> None:
    """Refuse what computes, or remembers, something else than a dense full-attention decoder."""
    other = [key for key in _NOT_DENSE if values.get(key)]
    if values.get("use_sliding_window", values.get("sliding_window")):
        other.append("sliding_window")
    layers = values.get("layer_types")
    if layers is not None and not isinstance(layers, list):
        raise ValueError(f"layer_types must be a list with a kind for each layer, got {layers!r}")
    if any(kind != "full_attention" for kind in layers or ()):
        other.append("layer_types")
    if other:
        raise ValueError(f"only dense full-attention models are supported, got {', '.join(other)}")
    if values.get("quantization_config"):
        raise ValueError("quantization_config must be absent: only unquantized models are supported")
