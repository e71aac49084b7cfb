"""Step times that an engine was measured to take, replayed one after the other.

A simulation that takes the recorded times makes the engine's decisions at the engine's times, so that
what still differs is due to decisions, and not to the latency model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tokencake.sim.latency.base import LatencyModel
from tokencake.sim.latency.linear import features


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


class RecordedLatency:
    """`LatencyModel` that gives the n-th step the n-th recorded time.

    A step that computes something else than the recorded one, or comes after the last one, gets the
    time of ``base``, and is counted as ``not_as_recorded``. What policies ask about costs is answered by
    ``base`` too, as it was while the engine ran. Steps must be asked for one by one
    (``engine.jumps=false``).
    """

    def __init__(self, base: LatencyModel, steps: Sequence[RecordedStep]) -> None:
        """Start at the first of ``steps``; ``base`` is the latency model of the recorded run."""
        self._base = base
        self._steps = steps
        self._next = 0
        self._other = 0

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

    def decode_cell(self, decodes: int, decode_context: int) -> tuple[int, int, int]:
        """See `LatencyModel.decode_cell`."""
        return self._base.decode_cell(decodes, decode_context)

    def prefill_ps(self, new: int, context: int) -> int:
        """See `LatencyModel.prefill_ps`."""
        return self._base.prefill_ps(new, context)

    def decode_ps(self, decodes: int, decode_context: int) -> int:
        """See `LatencyModel.decode_ps`."""
        return self._base.decode_ps(decodes, decode_context)

    def note_jump(self, steps: int, decodes: int, decode_context: int) -> None:  # noqa: ARG002
        """See `LatencyModel.note_jump`; no step of a recording is jumped over.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("recorded steps are taken one by one: engine.jumps must be false")

    def outside(self) -> Mapping[str, int]:
        """Return what ``base`` counts, and the steps that differ from the recording."""
        return {**self._base.outside(), "not_as_recorded": self._other}
