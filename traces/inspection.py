"""Looking at a trace: is it valid, and what is in it?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from tokencake.traces.errors import BadInput
from tokencake.traces.files import StrPath
from tokencake.traces.importers import detect, native
from tokencake.traces.io import read_trace, trace_sha256
from tokencake.traces.percentiles import percentile
from tokencake.traces.prefix import PrefixIndex
from tokencake.traces.resolve import resolve
from tokencake.traces.schema import Header, LLMNode, Program, ToolNode


def validate_trace(path: StrPath) -> dict[str, int]:
    """Read a whole trace file and count what is in it.

    Returns:
        ``programs``, ``calls`` and ``tool_calls``.

    Raises:
        BadInput: for the first thing that is wrong.
    """
    source = detect(path).SOURCE
    if source != native.SOURCE:
        rule = f"must be a trace, and is a recording ({source}); tokencake trace import makes a trace of it"
        raise BadInput(rule, file=path)
    counts = {"programs": 0, "calls": 0, "tool_calls": 0}
    for program in read_trace(path):
        calls = sum(isinstance(node, LLMNode) for node in program.nodes)
        counts["programs"] += 1
        counts["calls"] += calls
        counts["tool_calls"] += len(program.nodes) - calls
    return counts


def inspect_trace(path: StrPath) -> dict[str, Any]:
    """Describe a trace file; see :func:`describe` for the keys.

    Raises:
        BadInput: for the first thing that is wrong.
    """
    trace = read_trace(path)
    return {"sha256": trace_sha256(path), **describe(trace.header, trace)}


def describe(header: Header, programs: Iterable[Program]) -> dict[str, Any]:
    """Describe programs.

    Returns:
        A JSON object: ``name``, ``labels``, ``programs``, ``calls``, ``tool_calls``, ``apps`` and
        ``agent_types`` (counts by name), distributions (``mean``, ``p50``, ``p90``, ``p99``, ``max``,
        ``total``) of ``calls_per_program``, ``prompt_tokens``, ``output_tokens`` and
        ``context_tokens`` (prompt and output), ``max_tokens_declared`` (share of the calls),
        ``tools`` (by name: ``count``, ``duration_s``, ``estimated`` share), ``sharing`` and
        ``arrivals``.

        ``sharing`` says which share of all prompt tokens is a prefix of what an earlier call held
        (its prompt and output), with an endless cache and calls in file order:
        ``seen_before`` in all, ``seen_in_other_programs`` in programs before this one.
    """
    counter = _Counter()
    for program in programs:
        counter.add(program)
    return {"name": header.name, "labels": dict(header.labels), **counter.result()}


class _Counter:
    def __init__(self) -> None:
        self._apps: Counter[str] = Counter()
        self._agent_types: Counter[str] = Counter()
        self._calls: list[int] = []
        self._prompts: list[int] = []
        self._outputs: list[int] = []
        self._declared = 0
        self._tools: dict[str, list[ToolNode]] = {}
        self._arrivals: list[float] = []
        self._earlier = PrefixIndex()
        self._seen = 0
        self._seen_elsewhere = 0

    def add(self, program: Program) -> None:
        self._apps[program.app] += 1
        self._arrivals.append(program.arrival_s)
        calls = [node for node in program.nodes if isinstance(node, LLMNode)]
        self._calls.append(len(calls))
        self._agent_types.update(call.agent_type for call in calls)
        self._outputs += [call.output_tokens for call in calls]
        self._declared += sum(call.max_tokens is not None for call in calls)
        for node in program.nodes:
            if isinstance(node, ToolNode):
                self._tools.setdefault(node.tool, []).append(node)
        self._share(program)

    def _share(self, program: Program) -> None:
        own = PrefixIndex()
        resolved = list(resolve(program).values())
        for content in resolved:
            elsewhere = self._earlier.common(content.prompt)
            self._seen_elsewhere += elsewhere
            self._seen += max(elsewhere, own.common(content.prompt))
            own.add(content.prompt + content.output)
            self._prompts.append(content.prompt_tokens)
        for content in resolved:
            self._earlier.add(content.prompt + content.output)

    def result(self) -> dict[str, Any]:
        total = sum(self._prompts)
        return {
            "programs": len(self._calls),
            "calls": len(self._prompts),
            "tool_calls": sum(map(len, self._tools.values())),
            "apps": dict(sorted(self._apps.items())),
            "agent_types": dict(sorted(self._agent_types.items())),
            "calls_per_program": distribution(self._calls),
            "prompt_tokens": distribution(self._prompts),
            "output_tokens": distribution(self._outputs),
            "context_tokens": distribution([a + b for a, b in zip(self._prompts, self._outputs, strict=True)]),
            "max_tokens_declared": _share_of(self._declared, len(self._prompts)),
            "tools": {name: _tool(nodes) for name, nodes in sorted(self._tools.items())},
            "sharing": {
                "seen_before": _share_of(self._seen, total),
                "seen_in_other_programs": _share_of(self._seen_elsewhere, total),
            },
            "arrivals": _arrivals(sorted(self._arrivals)),
        }


def distribution(values: Sequence[float]) -> dict[str, float]:
    """Return mean, percentiles (linear interpolation), maximum and total; {} without values."""
    if not values:
        return {}
    ordered = sorted(values)
    total = math.fsum(ordered)
    result: dict[str, float] = {"mean": total / len(ordered)}
    for percent in (50, 90, 99):
        result[f"p{percent}"] = percentile(ordered, percent)
    return {**result, "max": ordered[-1], "total": total}


def _tool(nodes: list[ToolNode]) -> dict[str, Any]:
    estimated = sum(node.estimate_s is not None for node in nodes)
    return {
        "count": len(nodes),
        "duration_s": distribution([node.duration_s for node in nodes]),
        "estimated": _share_of(estimated, len(nodes)),
    }


def _arrivals(times: list[float]) -> dict[str, float]:
    """Return first and last arrival, rate (gaps per second) and mean and variation of the gaps."""
    if not times:
        return {}
    result = {"first_s": times[0], "last_s": times[-1]}
    gaps = [later - earlier for earlier, later in pairwise(times)]
    mean = (times[-1] - times[0]) / len(gaps) if gaps else 0.0
    if mean > 0:
        variance = math.fsum((gap - mean) ** 2 for gap in gaps) / len(gaps)
        result |= {"qps": 1 / mean, "gap_mean_s": mean, "gap_cv": math.sqrt(variance) / mean}
    return result


def _share_of(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
