"""Measured kernel times from the ``aiconfigurator-core`` package (extra ``hardware``).

Its engine adds up measured kernels of one forward pass; there is no host overhead in it. All times
are of the whole model on one GPU, in milliseconds. A mixed step's time is the non-attention part at
the step's total tokens, plus prefill attention, plus decode attention (`mixed_step_breakdown`
returns these three), which is the decomposition that the tables use.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import version
from math import log
from pathlib import Path
from typing import Any, Final

from tokencake.sim.latency.base import MeasuredRange
from tokencake.sim.latency.shape import ModelShape

PACKAGE: Final = "aiconfigurator-core"
_ATTENTION: Final = ("context_attention", "generation_attention")
_HEAD: Final = ("context_logits_gemm", "generation_logits_gemm")


class Kernels:
    """Kernel times of one model on one system."""

    def __init__(self, config_dir: Path, system: str, model: ModelShape) -> None:
        """Compile the model.

        Args:
            config_dir: Folder with the model's Hugging Face ``config.json``.
            system: Name of a system, such as ``a100_sxm``.
            model: The same model's shape.

        Raises:
            ModuleNotFoundError: ``aiconfigurator-core`` is not installed.
            ValueError: It does not know the model or the system.
        """
        from aiconfigurator_core import AicEngine  # an optional extra
        from aiconfigurator_core.sdk.engine import EngineHandle

        # It warns about tables of other attention kinds, which dense models never touch.
        logging.getLogger("aiconfigurator_core").setLevel(logging.ERROR)
        self._model = model
        try:
            self._handle = EngineHandle.compile(str(config_dir.resolve()), system, "vllm")
        except Exception as error:
            raise ValueError(f"{PACKAGE} cannot model {config_dir} on {system}: {error}") from error
        self._engine = AicEngine.from_spec(self._handle.spec_bytes)
        self._context_ops = self._names(context=True)
        self._generation_ops = self._names(context=False)

    @property
    def provenance(self) -> dict[str, str]:
        """Package and version."""
        return {"tool": PACKAGE, "tool_version": version(PACKAGE)}

    def layers_ms(self, tokens: int) -> float:
        """Return everything but attention and output projection, for a step of ``tokens`` tokens."""
        skip = (_ATTENTION[0], _HEAD[0])
        return self._context([name for name in self._context_ops if name not in skip], tokens, 0)

    def head_ms(self, calls: int) -> float:
        """Return the output projection for one token of each call."""
        index = self._generation_ops[_HEAD[1]]
        return _total(self._handle.evaluate_generation_ops([index], batch_size=calls, s=2))

    def prefill_attention_ms(self, new: int, context: int) -> float:
        """Return the attention of one chunk of ``new`` tokens after ``context`` tokens."""
        return self._context([_ATTENTION[0]], new, context)

    def decode_attention_ms(self, calls: int, context: int) -> float:
        """Return the attention of decodes that attend ``context`` tokens each."""
        index = self._generation_ops[_ATTENTION[1]]
        return _total(self._handle.evaluate_generation_ops([index], batch_size=calls, s=context))

    def prefill_ms(self, new: int, context: int) -> float:
        """Return the tool's own time of a step with one chunk."""
        return float(self._handle.predict_prefill_latency(1, new + context, context))

    def decode_ms(self, calls: int, context: int) -> float:
        """Return the tool's own time of a decode-only step; ``context`` >= 2."""
        return float(self._handle.decode_step_latency(calls, context - 1, 2))

    def mixed_ms(self, new: int, context: int, calls: int, decode_context: int) -> float:
        """Return the tool's time of a step with one chunk and some decodes.

        The shared part is `mixed_step_breakdown`'s. Its prefill attention is not used: it spreads a
        whole prompt's attention evenly over its chunks instead of asking for this chunk's.
        """
        shared = float(self._handle.mixed_step_breakdown(new, calls, new, 2)[1])
        attention = self.prefill_attention_ms(new, context) + self.decode_attention_ms(calls, decode_context)
        return shared + attention

    @cached_property
    def measured(self) -> MeasuredRange:
        """How far the kernels were measured; beyond it the tool extrapolates."""
        model = self._model
        heads = ("bfloat16", str(model.kv_heads if model.kv_heads < model.heads else 0), str(model.head_dim), "0")
        prefill = self._nearest_heads(self._view("_context_attention_data", "bfloat16", *heads))
        decode = self._nearest_heads(self._view("_generation_attention_data", *heads))
        points = [(int(calls), int(context)) for calls, row in decode.items() for context in row]
        return MeasuredRange(
            decodes=max(calls for calls, _ in points),
            decode_context=max(context for _, context in points),
            decode_context_sum=max(calls * context for calls, context in points),
            step_tokens=max(map(int, self._view("_gemm_data", "bfloat16"))),
            prefill_length=max(map(int, prefill)),
        )

    def _view(self, attribute: str, *path: str) -> Mapping[str, Any]:
        view: Mapping[str, Any] = json.loads(self._engine.table_view_json(attribute))
        for key in path:
            view = view[key]
        return view

    def _nearest_heads(self, by_heads: Mapping[str, Any]) -> Mapping[str, Any]:
        nearest: Mapping[str, Any] = by_heads[min(by_heads, key=lambda heads: abs(log(int(heads) / self._model.heads)))]
        return nearest

    def _context(self, names: list[str], tokens: int, prefix: int) -> float:
        indices = [self._context_ops[name] for name in names]
        return _total(self._handle.evaluate_context_ops(indices, batch_size=1, s=tokens, prefix=prefix))

    def _names(self, *, context: bool) -> dict[str, int]:
        def names() -> Iterator[str]:
            for index in range(1000):
                try:
                    if context:
                        yield self._handle.evaluate_context_ops([index], batch_size=1, s=2)[0][0]
                    else:
                        yield self._handle.evaluate_generation_ops([index], batch_size=1, s=2)[0][0]
                except ValueError:  # the list has ended: the tool has no call that returns its length
                    return

        found = {name: index for index, name in enumerate(names())}
        for name in (_ATTENTION[not context], _HEAD[not context]):
            if name not in found:
                raise ValueError(f"{PACKAGE} has no {name!r} for this model: only dense full attention is supported")
        return found


def _total(operations: list[tuple[str, float, float, str]]) -> float:
    return sum(operation[1] for operation in operations)
