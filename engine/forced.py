"""Makes the engine say what the trace says.

A replay must generate the trace's output tokens: the next prompt of a program repeats them, and two
calls with one prompt may have different outputs. vLLM lets a logits processor have the last word
before sampling; this one raises one logit a call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.interface import MoveDirectionality

if TYPE_CHECKING:
    import torch
    from vllm.v1.sample.logits_processor import BatchUpdate

OUTPUT: Final = "tokencake_output"
"""Key of ``SamplingParams.extra_args`` under which a call's output tokens stand."""


class ForcedOutput(LogitsProcessor):
    """Forces the tokens of ``extra_args["tokencake_output"]``; other requests are left alone.

    Which one comes next is the number of output tokens so far, of which vLLM hands out the running
    list, so that a preempted call goes on where it was.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool):  # noqa: ARG002
        self._calls: dict[int, tuple[list[int], list[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        """Whether greedy sampling may leave it out: it may not."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests through the rows of the batch."""
        if batch_update is None:
            return
        calls = self._calls
        for row in batch_update.removed:
            calls.pop(row, None)
        for row, params, _, sampled in batch_update.added:
            calls.pop(row, None)
            wanted = (params.extra_args or {}).get(OUTPUT)
            if wanted is not None:
                calls[row] = wanted, sampled
        for source, target, way in batch_update.moved:
            moved, other = calls.pop(source, None), calls.pop(target, None)
            if moved is not None:
                calls[target] = moved
            if other is not None and way is MoveDirectionality.SWAP:
                calls[source] = other

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Raise the wanted token of every row above all others."""
        rows, tokens = [], []
        for row, (wanted, sampled) in self._calls.items():
            if len(sampled) < len(wanted):
                rows.append(row)
                tokens.append(wanted[len(sampled)])
        if rows:
            logits[rows, tokens] = float("inf")
        return logits
