"""What a step of vLLM is made of, in the terms of a latency model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class StepShape(NamedTuple):
    """A step, as :meth:`tokencake.sim.latency.base.LatencyModel.step_ps` is asked about it.

    Attributes:
        prefill: ``(new tokens, context)`` of each prefill chunk.
        decodes: Decoding calls.
        context: KV tokens that the decoding calls attend, each with its own token of this step.
    """

    prefill: tuple[tuple[int, int], ...]
    decodes: int
    context: int


def step_shape(scheduled: Any, requests: Mapping[str, Any]) -> StepShape:
    """Read the shape of a step off vLLM's ``SchedulerOutput``, before its outputs are processed.

    A call decodes if its only token to compute is the output that it sampled last.
    """
    prefill: list[tuple[int, int]] = []
    decodes = context = 0
    for name, tokens in scheduled.num_scheduled_tokens.items():
        request = requests[name]
        before = request.num_computed_tokens - tokens
        if tokens == 1 and request.num_output_tokens and before + 1 == request.num_tokens:
            decodes += 1
            context += before + 1
        else:
            prefill.append((tokens, before))
    return StepShape(tuple(prefill), decodes, context)
