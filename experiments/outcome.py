"""One simulated run as the claims need it: latency, memory, and where the seconds of the latency went."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tokencake.experiments.timeline import Columns, tool_spans
from tokencake.policies.api import Policy
from tokencake.sim.config import SimConfig
from tokencake.sim.run import simulate
from tokencake.traces.percentiles import percentile
from tokencake.traces.schema import Program, ToolNode

PARTS: Final = ("queue", "queue again", "loads", "prefill", "decode", "tools")
"""What a call or a tool can be doing: waiting to be admitted for the first time, waiting after a preemption, waiting
for KV from the CPU, computing its prompt, generating, running a tool (with the client's delay before a call).

What a call that was preempted after its first token computes again before the next one is part of "decode": no record
says when it went on."""

_Span = tuple[float, float]
_Spans = Mapping[str, Sequence[_Span]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run.

    Attributes:
        latency_s: Mean program latency.
        effective: Part of GPU memory held by calls that run, over time.
        turnover: Seconds in which the free list turns over, over the 90th percentile of tool durations; infinite if
            nothing was overwritten.
        seconds: Mean over programs of what their latency consists of, by `PARTS`; the sum is `latency_s`.
        computed: Prompt tokens computed, in millions.
        summary: The run's summary.
    """

    latency_s: float
    effective: float
    turnover: float
    seconds: Mapping[str, float]
    computed: float
    summary: Mapping[str, Any]


def play(programs: Sequence[Program], config: SimConfig, policy: Policy) -> Outcome:
    """Play programs under a policy.

    Raises:
        ValueError: a program was refused, so that means would not be over all of them.
    """
    result = simulate(programs, config, policy)
    summary = result.summary
    if summary["refused_programs"]:
        raise ValueError(f"programs refused must be 0, got {summary['refused_programs']}: memory is too small for them")
    calls, transfers = result.calls.columns, result.transfers.columns
    loads: dict[str, list[_Span]] = {}
    for program, call, cause, *span in zip(
        *(transfers[name] for name in ("program", "call", "cause", "start_s", "finish_s")), strict=True
    ):
        if cause == "load":
            loads.setdefault(f"{program}/{call}", []).append((span[0], span[1]))
    parts = _parts_of_calls(calls, loads)
    ends = {(p, c): end for p, c, end in zip(calls["program"], calls["call"], calls["finish_s"], strict=True)}
    for tool in tool_spans(programs, result.programs.columns, calls, timed=False):
        parts[tool.program, tool.node] = {"tools": tool.finish_s - tool.start_s}
        ends[tool.program, tool.node] = tool.finish_s
    latencies = dict(zip(result.programs.columns["program"], result.programs.columns["latency_s"], strict=True))
    seconds = [_seconds(program, latencies[program.program], parts, ends) for program in programs]
    turnover = summary["free_list_turnover_s"]
    return Outcome(
        summary["program_latency_s"]["mean"],
        summary["kv_effective_mean"],
        math.inf if turnover is None else turnover / p90_tool_s(programs),
        {part: sum(own[part] for own in seconds) / len(seconds) for part in PARTS},
        summary["prefill_tokens"]["computed"] / 1e6,
        summary,
    )


def p90_tool_s(programs: Iterable[Program]) -> float:
    """90th percentile of tool durations in seconds."""
    return percentile(sorted(n.duration_s for p in programs for n in p.nodes if isinstance(n, ToolNode)), 90)


def _parts_of_calls(calls: Columns, loads: _Spans) -> dict[tuple[str, str], dict[str, float]]:
    """What every call did from its arrival to its end, by program and node."""
    parts = {}
    times = ("admitted_s", "first_token_s", "finish_s")
    names = ("program", "call", "queue_s", "prefill_preempted_s", "decode_preempted_s", *times)
    for program, call, queue, early, late, admitted, first, finish in zip(*(calls[n] for n in names), strict=True):
        loading = loads.get(f"{program}/{call}", ())
        parts[program, call] = {
            "queue": queue,
            "queue again": early + late,
            "loads": _within(loading, admitted, finish),
            "prefill": first - admitted - early - _within(loading, admitted, first),
            "decode": finish - first - late - _within(loading, first, finish),
        }
    return parts


def _within(spans: Iterable[_Span], start: float, end: float) -> float:
    return sum(max(0.0, min(b, end) - max(a, start)) for a, b in spans)


def _seconds(
    program: Program,
    latency_s: float,
    parts: Mapping[tuple[str, str], Mapping[str, float]],
    ends: Mapping[tuple[str, str], float],
) -> dict[str, float]:
    """What a program's latency consists of.

    Read backwards along the path that was waited for: from the node that ended last to the one among those it depends
    on that ended last, and so on. One follows the other, so the seconds on the path are the latency.
    """
    nodes = {node.id: node for node in program.nodes}
    total = dict.fromkeys(PARTS, 0.0)
    candidates: Iterable[str] = nodes
    while candidates:
        last = max(candidates, key=lambda name: (ends[program.program, name], name))
        for part, value in parts[program.program, last].items():
            total[part] += value
        candidates = nodes[last].after
    total["tools"] += latency_s - sum(total.values())  # the client's delays
    return total
