"""Models for the live engine: tiny Llamas built here from a seed, or any local model folder.

The tiny ones compute what a Llama computes, with random weights: a policy's effect on time and memory
does not depend on what the tokens mean. They are built once into the user's cache folder.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tokencake.sim.latency.model_config import ModelConfig, parse_config, read_config
from tokencake.sim.latency.shape import ModelShape

_RECIPE: Final = 1
"""Changes whenever the same name would give other weights."""

_MAX_LEN: Final = 32768


class ModelError(ValueError):
    """A model that cannot be used; the text is one line."""


TINY: Final[Mapping[str, ModelShape]] = {
    "xs": ModelShape("tiny-llama-xs", 2, 128, 2, 1, 64, 352, 1024, dtype_bytes=4, kv_dtype_bytes=4),
    "s": ModelShape("tiny-llama-s", 4, 256, 4, 2, 64, 704, 2048, dtype_bytes=4, kv_dtype_bytes=4),
    "m": ModelShape("tiny-llama-m", 8, 512, 8, 2, 64, 1408, 4096, dtype_bytes=4, kv_dtype_bytes=4),
}
"""Shapes of the models built here, by name; float32."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that an engine can load.

    Attributes:
        folder: Where it is.
        shape: What it is, as far as time and memory are concerned.
        dtype: Number format of weights and KV, as vLLM spells it.
        max_len: Most tokens that its positions allow.
        tiny: Its name among `TINY`; empty if it is not one of them.
    """

    folder: Path
    shape: ModelShape
    dtype: str
    max_len: int
    tiny: str = ""

    def ensure(self) -> None:
        """Build it, if it is a tiny one that nobody has built yet."""
        if self.tiny:
            build(self.tiny)


def cache_folder() -> Path:
    """Where built models are kept: ``$XDG_CACHE_HOME/tokencake`` or ``~/.cache/tokencake``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokencake"


def find_model(name: str, *, dtype: str = "auto") -> Model:
    """A tiny model by name, or a local folder; nothing is built or loaded yet.

    Args:
        name: ``xs``, ``s``, ``m`` or a folder with a Hugging Face ``config.json``.
        dtype: vLLM's number format; ``auto`` is the one in the model's configuration.

    Raises:
        ModelError: There is no such model, or it is not one that the engine's hosts model.
    """
    try:
        if name in TINY:
            return _model(_folder(name, 0), parse_config(_config(TINY[name]), TINY[name].name), dtype, name)
        folder = Path(name)
        if not (folder / "config.json").is_file():
            raise ValueError(f"neither one of {', '.join(TINY)} nor a folder with a config.json")
        return _model(folder, read_config(folder), dtype)
    except ValueError as error:
        raise ModelError(f"model {name!r}: {error}") from None


def build(name: str, *, seed: int = 0) -> Path:
    """Build a tiny model unless the cache has it; returns its folder.

    Weights are normal with the variance that keeps activations at unit scale, drawn from ``seed``;
    the output projection is twice as wide, so that the best token is well ahead of the second.
    """
    folder = _folder(name, seed)
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=folder.parent))
    try:
        _write(temporary, TINY[name], seed)
        try:
            temporary.rename(folder)
        except OSError:
            if not (folder / "config.json").is_file():  # somebody else built it meanwhile
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _folder(name: str, seed: int) -> Path:
    return cache_folder() / "models" / f"{name}-r{_RECIPE}-seed{seed}"


def _write(folder: Path, shape: ModelShape, seed: int) -> None:
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)

    def weight(rows: int, columns: int, std: float | None = None) -> Any:
        return torch.randn(rows, columns, generator=generator) * (columns**-0.5 if std is None else std)

    hidden, inner = shape.hidden, shape.intermediate
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    tensors = {
        "model.embed_tokens.weight": weight(shape.vocab, hidden, 1.0),
        "lm_head.weight": weight(shape.vocab, hidden, 2 * hidden**-0.5),
        "model.norm.weight": torch.ones(hidden),
    }
    for index in range(shape.layers):
        layer = f"model.layers.{index}."
        tensors |= {
            layer + "input_layernorm.weight": torch.ones(hidden),
            layer + "post_attention_layernorm.weight": torch.ones(hidden),
            layer + "self_attn.q_proj.weight": weight(queries, hidden),
            layer + "self_attn.k_proj.weight": weight(keys, hidden),
            layer + "self_attn.v_proj.weight": weight(keys, hidden),
            layer + "self_attn.o_proj.weight": weight(hidden, queries),
            layer + "mlp.gate_proj.weight": weight(inner, hidden),
            layer + "mlp.up_proj.weight": weight(inner, hidden),
            layer + "mlp.down_proj.weight": weight(hidden, inner),
        }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_config(shape), indent=1) + "\n", encoding="utf-8")


def _config(shape: ModelShape) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "max_position_embeddings": _MAX_LEN,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
        "use_cache": True,
    }


_BYTES: Final = {"float32": 4, "float16": 2, "bfloat16": 2, "half": 2, "float": 4}


def _model(folder: Path, config: ModelConfig, dtype: str, tiny: str = "") -> Model:
    chosen = config.dtype if dtype == "auto" else dtype
    if chosen not in _BYTES:
        raise ValueError(f"dtype must be one of {', '.join(_BYTES)}, got {chosen!r}")
    size = _BYTES[chosen]
    return Model(folder, replace(config.shape, dtype_bytes=size, kv_dtype_bytes=size), chosen, config.max_len, tiny)
