"""An invented workload that takes an engine through the steps that agents cause."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Final

_RETURNING: Final = 0.4
"""Share of the requests that continue an earlier one, as an agent does after a tool."""


class Load:
    """Prompts and output lengths, and how many requests should be under way.

    Lengths are log-uniform, so that short and long contexts are equally common; the number under way
    changes every `EPISODE` steps, from one request to as many as the engine takes.

    Args:
        max_model_len: Most tokens of a request.
        max_num_seqs: Most requests at once.
        vocab: Token ids to draw from.
        seed: Of all choices.
    """

    EPISODE: Final = 40

    def __init__(self, max_model_len: int, max_num_seqs: int, vocab: int, seed: int):
        self._random = Random(seed)
        self._longest = max_model_len
        self._vocab = vocab
        self._past: list[list[int]] = []
        levels = {*(1 << k for k in range(max_num_seqs.bit_length())), max_num_seqs}
        self._levels = [1, *sorted(levels)]  # a lone request, as in an engine with little to do, counts twice

    def under_way(self) -> Iterator[int]:
        """How many requests should be under way, step by step."""
        while True:
            level = self._random.choice(self._levels)
            for _ in range(self.EPISODE):
                yield level

    def request(self) -> tuple[list[int], int]:
        """Prompt and output length of one more request."""
        random = self._random
        prompt: list[int] = []
        if self._past and random.random() < _RETURNING:
            prompt = self._past.pop(random.randrange(len(self._past)))
        output = round(2 ** random.uniform(1, 6))
        room = self._longest - output - len(prompt)
        new = min(room, round(2 ** random.uniform(4, self._longest.bit_length() - 1)))
        if new <= 0:
            return self.request()
        prompt = prompt + [random.randrange(3, self._vocab) for _ in range(new)]
        self._past = [*self._past[-32:], prompt]
        return prompt, output
