"""What a run leaves behind: result rows, totals and the timeline of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import starmap
from typing import Any

from tokencake.traces.percentiles import percentile


class Table:
    """Rows of plain values under named columns.

    Args:
        names: Column names, in order.
        expand: Makes a row's values from what was added; by default they are the same.

    Attributes:
        names: Column names, in order.
    """

    def __init__(self, names: Sequence[str], expand: Callable[..., tuple[Any, ...]] | None = None):
        self.names = tuple(names)
        self._rows: list[tuple[Any, ...]] = []
        self._expand = expand

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, *values: Any) -> None:
        """Append one row, or what it is made from."""
        self._rows.append(values)

    def append(self, row: tuple[Any, ...]) -> None:
        """Append a row that others know, too."""
        self._rows.append(row)

    def sort(self, key: Callable[[tuple[Any, ...]], Any]) -> None:
        """Put the rows into an order, by what they were made from."""
        self._rows.sort(key=key)

    @property
    def columns(self) -> dict[str, list[Any]]:
        """All values, column by column."""
        if not self._rows:
            return {name: [] for name in self.names}
        rows: Iterable[tuple[Any, ...]] = self._rows
        if self._expand is not None:
            rows = starmap(self._expand, rows)
        return {name: list(column) for name, column in zip(self.names, zip(*rows, strict=True), strict=True)}


PROGRAM_COLUMNS = (
    "program",
    "app",
    "arrival_s",
    "finish_s",
    "latency_s",
    "calls",
    "tool_calls",
    "output_tokens",
    "prefill_computed_tokens",
    "gpu_hit_tokens",
    "cpu_hit_tokens",
    "preemptions",
    "refused",
    "llm_s",
    "tool_s",
    "queue_s",
)

CALL_COLUMNS = (
    "program",
    "call",
    "agent",
    "agent_type",
    "arrival_s",
    "admitted_s",
    "first_token_s",
    "finish_s",
    "latency_s",
    "ttft_s",
    "queue_s",
    "prefill_s",
    "prefill_preempted_s",
    "decode_s",
    "decode_preempted_s",
    "prompt_tokens",
    "output_tokens",
    "computed_tokens",
    "gpu_hit_tokens",
    "cpu_hit_tokens",
    "recomputed_tokens",
    "preemptions",
    "status",
    "critical",
)

TRANSFER_COLUMNS = (
    "start_s",
    "finish_s",
    "direction",
    "program",
    "call",
    "blocks",
    "bytes",
    "cause",
    "status",
)

KV_COLUMNS = (
    "time_s",
    "running_blocks",
    "stalled_blocks",
    "cached_blocks",
    "free_blocks",
    "cpu_blocks",
)

STEP_COLUMNS = (
    "start_s",
    "duration_s",
    "prefill_tokens",
    "prefill_pairs",
    "prefill_calls",
    "decodes",
    "decode_context",
    "wall_s",
    "cpu_s",
    "expected_s",
)

COPY_COLUMNS = ("direction", "bytes", "runs", "took_s")

DECISION_COLUMNS = ("time_s", "step", "hook", "subject", "decision", "outcome", "digest", "seen")


@dataclass(slots=True)
class RunResult:
    """Everything a run returns; nothing is written anywhere.

    Attributes:
        summary: Totals and percentiles, as documented in ``docs/metrics.md``.
        programs: One row a program.
        calls: One row a call.
        transfers: One row a transfer between the tiers.
        kv: Memory over time, in blocks.
        decisions: Decision log, empty unless asked for.
        timing: ``wall_s``, ``loop_cpu_s`` and ``peak_rss_mb`` of the run itself.
        steps: One row a step, where steps were measured.
        copies: One row a transfer, in the order in which they began, where their times were measured.
    """

    summary: dict[str, Any]
    programs: Table
    calls: Table
    transfers: Table
    kv: Table
    decisions: Table
    timing: dict[str, Any] = field(default_factory=dict)
    steps: Table | None = None
    copies: Table | None = None


class Integral:
    """Time integral of a piecewise constant quantity, exact in integers.

    With changes ``d`` at times ``t``, the integral up to ``T`` is ``value * T - sum(d * t)``.
    """

    __slots__ = ("moment", "value")

    def __init__(self) -> None:
        self.value = 0
        self.moment = 0

    def set(self, value: int, now_ps: int) -> None:
        """The quantity is ``value`` from now on."""
        self.moment += (value - self.value) * now_ps
        self.value = value

    def upto(self, now_ps: int) -> int:
        """Integral from time zero, in units of the quantity times picoseconds."""
        return self.value * now_ps - self.moment


def distribution(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, median, tail percentiles and maximum of a sample; None if it is empty."""
    if not values:
        return dict.fromkeys(("mean", "p50", "p90", "p95", "p99", "max"))
    ordered = sorted(values)
    return {
        "mean": sum(ordered) / len(ordered),
        "p50": percentile(ordered, 50),
        "p90": percentile(ordered, 90),
        "p95": percentile(ordered, 95),
        "p99": percentile(ordered, 99),
        "max": ordered[-1],
    }
