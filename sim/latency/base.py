"""What a host asks of a latency model, and what every model shares.

All times are integer picoseconds and all arithmetic is exact. A step's forward time is split into

* the *decode part*: what the step would cost with its decodes alone, and
* the *prefill part*: what its prefill chunks add to that (everything, in a step without decodes).

A profile's ``decode_factor`` multiplies the first, its ``prefill_factor`` the second, and
``overhead_us`` is added once per step. For a fixed number of decodes the decode part is piecewise
linear in the summed context with integer slopes, so the sum over a run of decode-only steps has a
closed form that equals the loop to the last picosecond.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol, runtime_checkable

PS_PER_US: Final = 1_000_000
"""Picoseconds in a microsecond."""

UNBOUNDED: Final = 1 << 62
"""Stands for "no limit" where an integer is needed (a cell's end, a measured range)."""

_PPM: Final = 1_000_000


@runtime_checkable
class LatencyModel(Protocol):
    """Time of one engine step.

    Implementations: `LinearLatency`, `RooflineLatency`, `TableLatency`, and around another one `ScatterLatency` and
    `RecordedLatency`.
    """

    def fresh(self) -> LatencyModel:
        """Return a model with the same times that has counted and drawn nothing; what never changes is shared.

        A host asks its own fresh model, so that no run knows of another.
        """
        ...

    def step_ps(self, prefill: Sequence[tuple[int, int]], decodes: int, decode_context: int) -> int:
        """Return the time of one step in picoseconds.

        Counts the step in `outside` when it leaves the measured range. Where each step has a time of its own
        (`ScatterLatency`, `RecordedLatency`), the next step has the next one. Changes nothing else.

        Args:
            prefill: ``(new_tokens, context_tokens)`` per prefilling call; the context is what was
                in the KV cache before this chunk.
            decodes: Number of decoding calls, one token each.
            decode_context: KV tokens attended, summed over the decoding calls, each including the
                token computed in this step.
        """
        ...

    def decode_cell(self, decodes: int, decode_context: int) -> tuple[int, int, int]:
        """Return ``(t0, slope, end)``, the linear piece that holds ``decode_context``; ``decodes`` >= 1.

        For ``decode_context <= c < end``:
        ``step_ps((), decodes, c) == t0 + slope * (c - decode_context)``. Counts nothing.
        """
        ...

    def prefill_ps(self, new: int, context: int) -> int:
        """Return the time of a step with one prefill chunk and nothing else. Counts nothing."""
        ...

    def decode_ps(self, decodes: int, decode_context: int) -> int:
        """Return the time of a decode-only step (summed context). Counts nothing."""
        ...

    def note_jump(self, steps: int, decodes: int, decode_context: int) -> None:
        """Count a run of decode-only steps that `step_ps` was not asked about.

        The first step attends ``decode_context`` tokens and each next one ``decodes`` more. Makes
        `outside` equal to what ``steps`` calls of `step_ps` would have left.
        """
        ...

    def outside(self) -> Mapping[str, int]:
        """Return, per dimension, how many steps left the measured range (and were extrapolated)."""
        ...


@dataclass(frozen=True, slots=True)
class Scale:
    """Corrections of a model's forward time, as integers.

    Attributes:
        prefill_ppm: Factor on the prefill part, in millionths.
        decode_ppm: Factor on the decode part, in millionths.
        overhead_ps: Added to every step.
    """

    prefill_ppm: int = _PPM
    decode_ppm: int = _PPM
    overhead_ps: int = 0

    @classmethod
    def of(cls, *, prefill_factor: float = 1.0, decode_factor: float = 1.0, overhead_us: float = 0.0) -> Scale:
        """Make a scale from a profile's numbers, rounded to millionths and picoseconds.

        Raises:
            ValueError: A factor is not > 0, or the overhead is negative.
        """
        for name, factor in (("prefill_factor", prefill_factor), ("decode_factor", decode_factor)):
            if not (factor > 0 and round(factor * _PPM) > 0):
                raise ValueError(f"{name} must be > 0, got {factor}")
        if not overhead_us >= 0:
            raise ValueError(f"overhead_us must be >= 0, got {overhead_us}")
        return cls(
            round(prefill_factor * _PPM),
            round(decode_factor * _PPM),
            round(overhead_us * PS_PER_US),
        )

    def prefill(self, ps: int) -> int:
        """Return ``ps`` times the prefill factor, rounded to the nearest picosecond."""
        return (ps * self.prefill_ppm + _PPM // 2) // _PPM

    def prefill_each(self, line: Sequence[int]) -> list[int]:
        """Return :meth:`prefill` of every value."""
        ppm = self.prefill_ppm
        return [(ps * ppm + _PPM // 2) // _PPM for ps in line]

    def decode(self, ps: int) -> int:
        """Return ``ps`` times the decode factor, rounded to the nearest picosecond."""
        return (ps * self.decode_ppm + _PPM // 2) // _PPM


@dataclass(frozen=True, slots=True)
class MeasuredRange:
    """How far a model was measured; the default has no limits.

    Attributes:
        decodes: Most decoding calls in a step.
        decode_context: Largest mean context per decoding call, in tokens.
        decode_context_sum: Largest context summed over the decoding calls, in tokens.
        step_tokens: Most tokens in one step (prefill and decode together).
        prefill_length: Largest context plus new tokens of a prefilling call.
    """

    DIMENSIONS: ClassVar[tuple[str, ...]] = ("decodes", "decode_context", "step_tokens", "prefill_length")

    decodes: int = UNBOUNDED
    decode_context: int = UNBOUNDED
    decode_context_sum: int = UNBOUNDED
    step_tokens: int = UNBOUNDED
    prefill_length: int = UNBOUNDED


class RangeCounter:
    """Counts the steps that left a `MeasuredRange`, by dimension."""

    def __init__(self, limit: MeasuredRange) -> None:
        """Start at zero steps outside ``limit``."""
        self.limit = limit
        self._counts = dict.fromkeys(MeasuredRange.DIMENSIONS, 0)

    def step(self, prefill: Sequence[tuple[int, int]], decodes: int, decode_context: int) -> None:
        """Count one step."""
        limit = self.limit
        if decodes:
            self.jump(1, decodes, decode_context)
        if prefill:
            if decodes <= limit.step_tokens < decodes + sum(new for new, _ in prefill):
                self._counts["step_tokens"] += 1
            if any(new + context > limit.prefill_length for new, context in prefill):
                self._counts["prefill_length"] += 1

    def jump(self, steps: int, decodes: int, decode_context: int) -> None:
        """Count ``steps`` decode-only steps whose summed context grows by ``decodes`` a step."""
        limit, counts = self.limit, self._counts
        if decodes > limit.decodes:
            counts["decodes"] += steps
        if decodes > limit.step_tokens:
            counts["step_tokens"] += steps
        room = min(limit.decode_context * decodes, limit.decode_context_sum) - decode_context
        inside = room // decodes + 1 if room >= 0 else 0
        counts["decode_context"] += max(0, steps - inside)

    def context_limit(self, decodes: int) -> int:
        """Return the summed context up to which a decode-only step is inside every limit; -1 if none is."""
        limit = self.limit
        if decodes > min(limit.decodes, limit.step_tokens):
            return -1
        return min(limit.decode_context * decodes, limit.decode_context_sum)

    def counts(self) -> dict[str, int]:
        """Return the counts so far, by dimension."""
        return dict(self._counts)
