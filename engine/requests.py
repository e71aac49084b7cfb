"""Requests of vLLM."""

from __future__ import annotations

from typing import Any


def make_request(
    name: str,
    prompt: list[int],
    output_tokens: int,
    hasher: Any,
    *,
    priority: int = 0,
    arrival_s: float = 0.0,
) -> Any:
    """A vLLM ``Request`` that ends after exactly ``output_tokens``.

    Args:
        name: Id of the request.
        prompt: Token ids.
        output_tokens: How many to generate, greedily.
        hasher: Names full blocks (:func:`tokencake.engine.contents.block_hasher`); None if none are cached.
        priority: Rank in vLLM's priority queue; lower goes first.
        arrival_s: When it arrives, which decides among equal priorities.
    """
    from vllm.sampling_params import SamplingParams
    from vllm.v1.request import Request

    return Request(
        request_id=name,
        prompt_token_ids=prompt,
        sampling_params=SamplingParams(temperature=0, max_tokens=output_tokens, ignore_eos=True, detokenize=False),
        pooling_params=None,
        arrival_time=arrival_s,
        priority=priority,
        block_hasher=hasher,
    )
