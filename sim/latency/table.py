"""A latency model from four small tables.

A step with ``T`` tokens of ``R`` calls costs

``overhead + layers(T) + head(R) + sum of prefill_attention(new, context) + decode_attention(calls, mean context)``

where *layers* is everything that only depends on the number of tokens (projections, MLP, norms,
embedding) and *head* is the output projection, which vLLM computes for one token per call. The first
two are curves, the others grids; between two nodes all of them are linear.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from tokencake.sim.latency.base import UNBOUNDED, MeasuredRange, RangeCounter, Scale
from tokencake.sim.latency.grid import Curve, Grid

FORMAT: Final = "tokencake-latency"
VERSION: Final = 1

_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """The four tables, how far they were measured, and where they come from.

    Attributes:
        layers: Over the tokens of the step.
        head: Over the calls of the step.
        prefill_attention: Rows are new tokens, contexts the tokens before the chunk; per call.
        decode_attention: Rows are decoding calls, contexts the mean tokens that each attends.
        measured: Beyond it, values are extrapolated, by the source or by this module.
        source: Provenance, for people.
    """

    layers: Curve
    head: Curve
    prefill_attention: Grid
    decode_attention: Grid
    measured: MeasuredRange
    source: Mapping[str, Any]

    def __post_init__(self) -> None:
        first = self.prefill_attention.contexts[0]
        if first != 0:
            raise ValueError(f"prefill_attention: context must start at 0, got {first}")
        for name, grid in (("prefill_attention", self.prefill_attention), ("decode_attention", self.decode_attention)):
            if grid.rows[0] != 1:
                raise ValueError(f"{name}: rows must start at 1, got {grid.rows[0]}")

    @classmethod
    def read(cls, path: Path) -> LatencyTable:
        """Read a table.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is not a table, or a table breaks a rule; the text names file and part.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path.name}: not JSON: {error}") from None
        if not isinstance(data, dict) or (data.get("format"), data.get("version")) != (FORMAT, VERSION):
            raise ValueError(f"{path.name}: not a {FORMAT!r} file of version {VERSION}")

        def part(name: str, make: Callable[[Any], _V]) -> _V:
            try:
                return make(data[name])
            except KeyError as error:
                raise ValueError(f"{path.name}: {name}: {error} is missing") from None
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path.name}: {name}: {error}") from None

        return cls(
            layers=part("layers", lambda d: Curve(tuple(d["tokens"]), tuple(d["ns"]))),
            head=part("head", lambda d: Curve(tuple(d["calls"]), tuple(d["ns"]))),
            prefill_attention=part("prefill_attention", lambda d: _grid(d, "new")),
            decode_attention=part("decode_attention", lambda d: _grid(d, "calls")),
            measured=part("measured", lambda d: MeasuredRange(**d)),
            source=part("source", dict),
        )

    def to_json(self) -> str:
        """Return the file's text: one line per key, so that a difference can be read."""
        parts: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "source": dict(self.source),
            "measured": {field.name: getattr(self.measured, field.name) for field in fields(MeasuredRange)},
            "layers": {"tokens": self.layers.xs, "ns": self.layers.ns},
            "head": {"calls": self.head.xs, "ns": self.head.ns},
        }
        for name, axis, grid in (
            ("prefill_attention", "new", self.prefill_attention),
            ("decode_attention", "calls", self.decode_attention),
        ):
            parts[name] = {axis: grid.rows, "context": grid.contexts, "ns": grid.ns}
        lines = (f"{json.dumps(key)}:{json.dumps(value, separators=(',', ':'))}" for key, value in parts.items())
        return "{" + ",\n".join(lines) + "}\n"


class _Lazy(dict[int, _V], Generic[_V]):
    """A dictionary that computes what is not in it yet."""

    def __init__(self, make: Callable[[int], _V]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: int) -> _V:
        value = self[key] = self._make(key)
        return value


class TableLatency:
    """`LatencyModel` from a `LatencyTable`.

    What depends on the number of calls or new tokens alone is computed once and kept: a decode step
    costs two look-ups, a prefill chunk three.
    """

    def __init__(self, table: LatencyTable, scale: Scale | None = None) -> None:
        """Take the table with a profile's corrections.

        Args:
            table: The four tables.
            scale: Factors and overhead; none by default.
        """
        scale = scale or Scale()
        self._table, self._scale = table, scale
        self._range = RangeCounter(table.measured)
        self._overhead = scale.overhead_ps
        self._max_tokens = table.measured.step_tokens
        self._max_length = table.measured.prefill_length
        self._layers = _Lazy(lambda tokens: scale.prefill(table.layers.ps(tokens)))
        self._head = _Lazy(lambda calls: scale.prefill(table.head.ps(calls)))
        self._prefill = _Lazy(self._prefill_line)
        self._decode = _Lazy(self._decode_line)
        contexts = table.prefill_attention.contexts
        self._prefill_starts = [*contexts[:-1], UNBOUNDED]
        self._prefill_widths = [high - low for low, high in pairwise(contexts)]

    def fresh(self) -> TableLatency:
        """Return the same times, with nothing counted; see `LatencyModel.fresh`. Lines that are known are shared."""
        other = copy(self)
        other._range = RangeCounter(self._range.limit)
        return other

    def step_ps(self, prefill: Sequence[tuple[int, int]], decodes: int, decode_context: int) -> int:
        """Return the time of one step; see `LatencyModel.step_ps`."""
        if decodes:
            starts, times, slopes, limit, dense = self._decode[decodes]
            i = bisect_right(starts, decode_context) - 1
            time = times[i] + slopes[i] * (decode_context - starts[i])
            outside = decode_context > limit
        else:
            time, dense, outside = self._overhead, 0, False
        if prefill:
            tokens = decodes
            contexts, widths = self._prefill_starts, self._prefill_widths
            for new, context in prefill:
                tokens += new
                values, rises = self._prefill[new]
                if context:
                    i = bisect_right(contexts, context) - 1
                    time += values[i] + rises[i] * (context - contexts[i]) // widths[i]
                else:
                    time += values[0]
                if new + context > self._max_length:
                    outside = True
            time += self._layers[tokens] + self._head[decodes + len(prefill)] - dense
            if tokens > self._max_tokens:
                outside = True
        if outside:
            self._range.step(prefill, decodes, decode_context)
        return time

    def decode_cell(self, decodes: int, decode_context: int) -> tuple[int, int, int]:
        """Return the linear piece that holds the context; see `LatencyModel.decode_cell`."""
        starts, times, slopes, _, _ = self._decode[decodes]
        i = bisect_right(starts, decode_context) - 1
        return times[i] + slopes[i] * (decode_context - starts[i]), slopes[i], starts[i + 1]

    def prefill_ps(self, new: int, context: int) -> int:
        """Return the time of a step with one prefill chunk."""
        values, rises = self._prefill[new]
        i = bisect_right(self._prefill_starts, context) - 1
        attention = values[i] + rises[i] * (context - self._prefill_starts[i]) // self._prefill_widths[i]
        return self._overhead + attention + self._layers[new] + self._head[1]

    def decode_ps(self, decodes: int, decode_context: int) -> int:
        """Return the time of a decode-only step."""
        return self.decode_cell(decodes, decode_context)[0] if decodes else self._overhead

    def note_jump(self, steps: int, decodes: int, decode_context: int) -> None:
        """Count a run of decode-only steps; see `LatencyModel.note_jump`."""
        if decode_context + (steps - 1) * decodes > self._decode[decodes][3]:
            self._range.jump(steps, decodes, decode_context)

    def outside(self) -> Mapping[str, int]:
        """Return the steps that left the measured range, by dimension."""
        return self._range.counts()

    def _prefill_line(self, new: int) -> tuple[list[int], list[int]]:
        """Return a chunk's attention over its context: values and rises of the pieces."""
        values = self._scale.prefill_each(self._table.prefill_attention.row_ps(new))
        return values, [high - low for low, high in pairwise(values)]

    def _decode_line(self, decodes: int) -> tuple[list[int], list[int], list[int], int, int]:
        """Return a decode-only step over its summed context.

        Starts, times and slopes of the pieces; the context up to which it was measured; and the part
        of the time that does not depend on the context, as a step with prefill chunks has it.

        Slopes are whole picoseconds per token. Each is chosen from where the piece really starts to
        where it should end, so the rounding of one does not add to the next: the error at a node is
        at most half a picosecond per token of the piece's width (under 1 us for a million tokens).
        """
        grid = self._table.decode_attention
        dense = self._table.layers.ps(decodes) + self._table.head.ps(decodes)
        targets = [self._scale.decode(dense + ps) for ps in grid.row_ps(decodes)]
        nodes = [decodes * context for context in grid.contexts]
        starts, times, slopes = [0], [targets[0]], [0]
        if nodes[0] == 0:
            starts, times, slopes = [], [], []
        time = targets[0]
        for (start, end), target in zip(pairwise(nodes), targets[1:], strict=True):
            slope = max(0, (2 * (target - time) + end - start) // (2 * (end - start)))
            starts.append(start)
            times.append(time)
            slopes.append(slope)
            time += slope * (end - start)
        times = [self._overhead + time for time in times]
        limit = self._range.context_limit(decodes)
        return [*starts, UNBOUNDED], times, slopes, limit, self._layers[decodes] + self._head[decodes]


def _grid(data: Mapping[str, Any], rows: str) -> Grid:
    return Grid(tuple(data[rows]), tuple(data["context"]), tuple(map(tuple, data["ns"])))
