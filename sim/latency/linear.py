"""A latency model with six fitted coefficients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields

from tokencake.sim.latency.base import (
    PS_PER_US,
    UNBOUNDED,
    MeasuredRange,
    RangeCounter,
    Scale,
)


@dataclass(frozen=True, slots=True)
class LinearCoefficients:
    """Coefficients in microseconds; the order is that of `features`.

    Attributes:
        constant_us: Per step.
        per_prefill_token_us: Per new prompt token.
        per_prefill_pair_us: Per (new token, token it attends) pair: a chunk of ``n`` tokens after
            ``c`` tokens of context has ``n * c + n * (n + 1) / 2`` of them (causal attention).
        per_prefill_call_us: Per prefilling call.
        per_decode_us: Per decoding call.
        per_context_token_us: Per KV token attended by the decoding calls.
    """

    constant_us: float
    per_prefill_token_us: float = 0.0
    per_prefill_pair_us: float = 0.0
    per_prefill_call_us: float = 0.0
    per_decode_us: float = 0.0
    per_context_token_us: float = 0.0

    def __post_init__(self) -> None:
        """Refuse negative coefficients: they would make a longer step cheaper."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not value >= 0:
                raise ValueError(f"{field.name} must be >= 0, got {value}")


def features(
    prefill: Sequence[tuple[int, int]], decodes: int, decode_context: int
) -> tuple[int, int, int, int, int, int]:
    """Return what the coefficients multiply, in the order of `LinearCoefficients`.

    A calibration fits measured step times against these, so that both sides mean the same.

    >>> features([(4, 10)], 2, 30)
    (1, 4, 50, 1, 2, 30)
    """
    tokens = sum(new for new, _ in prefill)
    return (1, tokens, sum(map(_pairs, prefill)), len(prefill), decodes, decode_context)


def _pairs(chunk: tuple[int, int]) -> int:
    new, context = chunk
    return new * context + new * (new + 1) // 2


class LinearLatency:
    """`LatencyModel` that is linear in the six features of a step."""

    def __init__(
        self,
        coefficients: LinearCoefficients,
        scale: Scale | None = None,
        limit: MeasuredRange | None = None,
    ) -> None:
        """Round the coefficients to picoseconds, scaled.

        Args:
            coefficients: In microseconds.
            scale: Factors and overhead; none by default.
            limit: Range of the measurements behind the fit; unlimited by default.
        """
        scale = scale or Scale()
        self._range = RangeCounter(limit or MeasuredRange())
        self._limited = self._range.limit != MeasuredRange()

        def ps(us: float) -> int:
            return round(us * PS_PER_US)

        constant = ps(coefficients.constant_us)
        self._overhead = scale.overhead_ps
        self._decode_start = scale.overhead_ps + scale.decode(constant)
        self._per_decode = scale.decode(ps(coefficients.per_decode_us))
        self._per_context = scale.decode(ps(coefficients.per_context_token_us))
        self._prefill_start = scale.prefill(constant)
        self._per_token = scale.prefill(ps(coefficients.per_prefill_token_us))
        self._per_pair = scale.prefill(ps(coefficients.per_prefill_pair_us))
        self._per_call = scale.prefill(ps(coefficients.per_prefill_call_us))

    def fresh(self) -> LinearLatency:
        """Return the same times, with nothing counted; see `LatencyModel.fresh`."""
        other = copy(self)
        other._range = RangeCounter(self._range.limit)
        return other

    def step_ps(self, prefill: Sequence[tuple[int, int]], decodes: int, decode_context: int) -> int:
        """Return the time of one step; see `LatencyModel.step_ps`."""
        if self._limited:
            self._range.step(prefill, decodes, decode_context)
        return self._time(prefill, decodes, decode_context)

    def decode_cell(self, decodes: int, decode_context: int) -> tuple[int, int, int]:
        """Return the only cell there is; see `LatencyModel.decode_cell`."""
        return self._time((), decodes, decode_context), self._per_context, UNBOUNDED

    def prefill_ps(self, new: int, context: int) -> int:
        """Return the time of a step with one prefill chunk."""
        return self._time(((new, context),), 0, 0)

    def decode_ps(self, decodes: int, decode_context: int) -> int:
        """Return the time of a decode-only step."""
        return self._time((), decodes, decode_context)

    def note_jump(self, steps: int, decodes: int, decode_context: int) -> None:
        """Count a run of decode-only steps; see `LatencyModel.note_jump`."""
        self._range.jump(steps, decodes, decode_context)

    def outside(self) -> Mapping[str, int]:
        """Return the steps that left the measured range, by dimension."""
        return self._range.counts()

    def _time(self, prefill: Sequence[tuple[int, int]], decodes: int, decode_context: int) -> int:
        if decodes:
            time = self._decode_start + self._per_decode * decodes
            time += self._per_context * decode_context
        else:
            time = self._overhead + (self._prefill_start if prefill else 0)
        for new, context in prefill:
            time += self._per_call + self._per_token * new
            time += self._per_pair * (new * context + new * (new + 1) // 2)
        return time
