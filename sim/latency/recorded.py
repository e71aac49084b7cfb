"""Step times that an engine was measured to take, replayed one after the other.

A simulation that takes the recorded times makes the engine's decisions at the engine's times, so that
what still differs is due to decisions, and not to the latency model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tokencake.sim.latency.base import LatencyModel
from tokencake.sim.latency.linear import features
from tokencake.sim.latency.stepwise import Stepwise


class RecordedStep(NamedTuple):
    """One measured step.

    Attributes:
        prefill_tokens: New prompt tokens.
        prefill_pairs: See `tokencake.sim.latency.linear.LinearCoefficients.per_prefill_pair_us`.
        prefill_calls: Prefilling calls.
        decodes: Decoding calls.
        decode_context: KV tokens that these attend.
        duration_ps: How long it took.
    """

    prefill_tokens: int
    prefill_pairs: int
    prefill_calls: int
    decodes: int
    decode_context: int
    duration_ps: int


class RecordedLatency(Stepwise):
    """`LatencyModel` that gives the n-th step the n-th recorded time.

    A step that computes something else than the recorded one, or comes after the last one, gets the
    time of ``base``, the latency model of the recorded run, and is counted as ``not_as_recorded``.
    """

    def __init__(self, base: LatencyModel, steps: Sequence[RecordedStep]) -> None:
        """Start at the first of ``steps``; ``base`` is the latency model of the recorded run."""
        super().__init__(base)
        self._steps = steps
        self._next = 0
        self._other = 0

    def fresh(self) -> RecordedLatency:
        """Return the same recording at its first step, over a fresh base; see `LatencyModel.fresh`."""
        return RecordedLatency(self._base.fresh(), self._steps)

    def step_ps(self, prefill: Sequence[tuple[int, int]], decodes: int, decode_context: int) -> int:
        """Return the time of the next step; see `LatencyModel.step_ps`."""
        number = self._next
        self._next += 1
        if number < len(self._steps):
            step = self._steps[number]
            if step[:5] == features(prefill, decodes, decode_context)[1:]:
                return step.duration_ps
        self._other += 1
        return self._base.step_ps(prefill, decodes, decode_context)

    def outside(self) -> Mapping[str, int]:
        """Return what ``base`` counts, and the steps that differ from the recording."""
        return {**super().outside(), "not_as_recorded": self._other}
