"""VLLM's own scheduler, built without a model and without a device.

The configuration is that of a tiny dense model whose weights nobody loads; a scheduler looks at its
shapes only. vLLM is imported inside the functions, so that this module can be imported without it.
"""

from __future__ import annotations

import copy
import functools
import json
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokencake.engine.contents import prepare_hashing
from tokencake.engine.install import require

if TYPE_CHECKING:
    from tokencake.sim.config import EngineConfig

_HEADS, _HEAD_SIZE = 1, 64


@functools.cache
def _base_config() -> Any:
    """One valid vLLM configuration; every scheduler gets a changed copy."""
    require()
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


def make_scheduler(engine: EngineConfig, queue: str = "fcfs", *, kind: type | None = None, transfer: Any = None) -> Any:
    """Return a vLLM scheduler for an engine configuration.

    Args:
        engine: What the simulator is given; ``gpu_blocks`` excludes vLLM's null block.
        queue: vLLM's queue, ``fcfs`` or ``priority``.
        kind: Scheduler class; vLLM's own ``Scheduler`` or ``AsyncScheduler`` if None.
        transfer: vLLM's ``KVTransferConfig``, if there is a CPU tier.
    """
    config = _changed(engine, queue, transfer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

        prepare_hashing()
        spec = FullAttentionSpec(
            block_size=engine.block_size, num_kv_heads=_HEADS, head_size=_HEAD_SIZE, dtype=torch.float32
        )
        cache = KVCacheConfig(engine.gpu_blocks + 1, [], [KVCacheGroupSpec(["layer"], spec)])
        kind = kind or config.scheduler_config.get_scheduler_cls()
        return kind(
            vllm_config=config,
            kv_cache_config=cache,
            structured_output_manager=_NoGrammar(),
            block_size=engine.block_size,
            hash_block_size=engine.block_size,
            log_stats=False,
        )


def _changed(engine: EngineConfig, queue: str, transfer: Any) -> Any:
    config = copy.copy(_base_config())
    config.scheduler_config = scheduler = copy.copy(config.scheduler_config)
    config.cache_config = cache = copy.copy(config.cache_config)
    config.model_config = model = copy.copy(config.model_config)
    config.kv_transfer_config = transfer
    scheduler.max_num_batched_tokens = engine.max_num_batched_tokens
    scheduler.max_num_scheduled_tokens = engine.max_num_batched_tokens
    scheduler.max_num_seqs = engine.max_num_seqs
    scheduler.long_prefill_token_threshold = engine.long_prefill_token_threshold
    scheduler.scheduler_reserve_full_isl = engine.reserve_full_isl
    scheduler.watermark = engine.watermark
    scheduler.async_scheduling = engine.async_scheduling
    scheduler.policy = queue
    cache.block_size = engine.block_size
    cache.num_gpu_blocks = engine.gpu_blocks + 1
    cache.enable_prefix_caching = engine.prefix_caching
    model.max_model_len = engine.max_model_len
    return config
