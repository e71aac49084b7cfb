"""A vLLM engine inside this process: model, KV tensors, and one step of work at a time.

One thread computes: with more, the threads of a busy machine wait for each other, and what a step
costs says more about the machine's other work than about the step.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokencake.engine import install
from tokencake.engine.install import EngineStartError
from tokencake.engine.models import Model

if TYPE_CHECKING:
    import torch
    from vllm.engine.arg_utils import EngineArgs

    from tokencake.sim.config import EngineConfig


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine is built for; a run may use less of it.

    Attributes:
        blocks: KV blocks, vLLM's null block included.
        block_size: Tokens in a block.
        max_num_batched_tokens: Most tokens of a step.
        max_num_seqs: Most running calls.
        max_model_len: Most tokens of a call.
    """

    blocks: int
    block_size: int
    max_num_batched_tokens: int
    max_num_seqs: int
    max_model_len: int

    @classmethod
    def of(cls, engine: EngineConfig) -> Limits:
        """What a run with this configuration needs."""
        return cls(
            engine.gpu_blocks + 1,
            engine.block_size,
            engine.max_num_batched_tokens,
            engine.max_num_seqs,
            engine.max_model_len,
        )


class Runtime:
    """A loaded model with its KV tensors, and vLLM's scheduler over them; at most one is open in a process.

    Args:
        model: What to load.
        limits: Sizes of the engine.
        load_format: vLLM's; ``dummy`` makes up weights where there are none.
        adapter: Further ``EngineArgs``, such as ``scheduler_cls``.

    Attributes:
        core: vLLM's ``EngineCore``.

    Raises:
        EngineMissingError: There is no usable vLLM.
        EngineStartError: vLLM refuses the model or the sizes.
    """

    _open: ClassVar[bool] = False

    def __init__(self, model: Model, limits: Limits, *, load_format: str = "auto", **adapter: Any):
        install.require()
        if Runtime._open:
            raise RuntimeError("an engine is open in this process; close it first")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.getLogger("torch").setLevel(logging.ERROR)
            import torch
            from vllm.v1.engine.core import EngineCore
            from vllm.v1.executor import Executor

            torch.set_num_threads(1)  # the environment comes too late where torch was imported before
            try:
                model.ensure()
                with _silent():
                    config = _arguments(model, limits, load_format, adapter).create_engine_config()
                    self.core: Any = EngineCore(config, Executor.get_class(config), log_stats=False)
            except Exception as error:  # a broken model folder makes vLLM and its loaders raise anything
                reason = " ".join(str(error).split()) or type(error).__name__
                raise EngineStartError(f"vLLM does not start with {model.folder}: {reason}") from error
        Runtime._open = True  # vLLM keeps what its workers share in globals
        self.model = model
        self.limits = limits

    @property
    def scheduler(self) -> Any:
        """The engine's scheduler."""
        return self.core.scheduler

    @property
    def on_cpu(self) -> bool:
        """Whether the model computes on the CPU."""
        return bool(self.kv_tensors[0].device.type == "cpu")

    @property
    def kv_tensors(self) -> list[torch.Tensor]:
        """KV of each layer, its blocks along the first axis."""
        tensors = self.core.model_executor.driver_worker.worker.model_runner.kv_caches
        blocks = self.limits.blocks
        return [tensor.movedim(list(tensor.shape).index(blocks), 0) for tensor in tensors]

    def execute(self, scheduled: Any) -> Any:
        """Carry out a scheduled step: forward pass and sampling; returns vLLM's ``ModelRunnerOutput``."""
        executor = self.core.model_executor
        output = executor.execute_model(scheduled)
        return executor.sample_tokens(None) if output is None else output

    def close(self) -> None:
        """Shut the engine down."""
        self.core.shutdown()
        Runtime._open = False


def _arguments(model: Model, limits: Limits, load_format: str, adapter: Mapping[str, Any]) -> EngineArgs:
    from vllm.engine.arg_utils import EngineArgs

    from tokencake.engine.forced import ForcedOutput

    return EngineArgs(
        model=str(model.folder),
        skip_tokenizer_init=True,
        load_format=load_format,
        dtype=model.dtype,
        max_model_len=limits.max_model_len,
        block_size=limits.block_size,
        num_gpu_blocks_override=limits.blocks,
        kv_cache_memory_bytes=limits.blocks * limits.block_size * model.shape.kv_bytes_per_token,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        max_num_seqs=limits.max_num_seqs,
        enable_prefix_caching=True,
        enable_chunked_prefill=True,
        enforce_eager=True,
        async_scheduling=False,
        use_tqdm_on_load=False,
        seed=0,
        disable_log_stats=True,
        logits_processors=[ForcedOutput],
        **adapter,
    )


@contextmanager
def _silent() -> Iterator[None]:
    """Drop what libraries print to standard error while an engine starts; its errors are exceptions."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


_shared: dict[tuple[object, ...], Runtime] = {}


def shared_runtime(model: Model, limits: Limits, load_format: str) -> Runtime:
    """The last engine that was asked for here, if it is the same one; otherwise a new one in its place."""
    key = (model, limits, load_format)
    if key not in _shared:
        close_shared()
        _shared[key] = Runtime(model, limits, load_format=load_format)
    return _shared[key]


def close_shared() -> None:
    """Shut down the engine that runs share, if there is one: another one can be opened then."""
    while _shared:
        _shared.popitem()[1].close()


class Stopwatch:
    """Wall and CPU time since it was made or last read."""

    def __init__(self) -> None:
        self._last = time.perf_counter_ns(), time.process_time_ns()

    @staticmethod
    def wall_ns() -> int:
        """Nanoseconds of a clock that never goes back."""
        return time.perf_counter_ns()

    def lap_ns(self) -> tuple[int, int]:
        """Wall nanoseconds, and CPU nanoseconds of this process, since the last time."""
        now = time.perf_counter_ns(), time.process_time_ns()
        wall, cpu = now[0] - self._last[0], now[1] - self._last[1]
        self._last = now
        return wall, cpu
