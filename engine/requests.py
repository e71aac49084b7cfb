"""vLLM requests for the live engine."""

from __future__ import annotations

from typing import Any

from tokencake.engine.forced import OUTPUT


def make_request(
    name: str, prompt: list[int], output_tokens: int, hasher: Any, *, forced: list[int] | None = None, **more: Any
) -> Any:
    """A vLLM ``Request`` that generates exactly ``output_tokens``.

    Args:
        name: Id of the request.
        prompt: Token ids.
        output_tokens: How many to generate.
        hasher: Names full blocks (``EngineCore.request_block_hasher``).
        forced: The tokens to generate; None leaves them to the model (greedy).
        **more: Further arguments of ``Request``.
    """
    from vllm.sampling_params import SamplingParams
    from vllm.v1.request import Request

    params = SamplingParams(
        temperature=0,
        max_tokens=output_tokens,
        ignore_eos=True,
        detokenize=False,
        extra_args=None if forced is None else {OUTPUT: forced},
    )
    return Request(
        request_id=name,
        prompt_token_ids=prompt,
        sampling_params=params,
        pooling_params=None,
        block_hasher=hasher,
        **more,
    )
