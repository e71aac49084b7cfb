"""A run as a Chrome trace, to open in Perfetto (https://ui.perfetto.dev): who waits, who computes, who holds memory.

One process per program with a track per agent and per tool, and one process for the engine with memory counters and
the two link directions. Times are microseconds, as the format has them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokencake.traces.graph import topological_order
from tokencake.traces.schema import Program, ToolNode

Columns = Mapping[str, Sequence[Any]]
Event = dict[str, Any]

_ENGINE = 1  # process ids: the engine first, then programs


@dataclass(frozen=True, slots=True)
class ToolSpan:
    """One tool call: when it ran, in seconds."""

    program: str
    node: str
    tool: str
    start_s: float
    finish_s: float


def _micro(seconds: float) -> float:
    return round(seconds * 1e6, 3)


def _rows(table: Columns) -> Iterable[dict[str, Any]]:
    names = list(table)
    return (dict(zip(names, row, strict=True)) for row in zip(*table.values(), strict=True))


class _Tracks:
    """Names tracks; slices that overlap on one track get lanes of their own, because a viewer would nest them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._threads: dict[tuple[int, str, int], int] = {}
        self._busy_until: dict[tuple[int, str], list[float]] = {}

    def process(self, pid: int, name: str) -> None:
        self.events.append({"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}})
        self.events.append({"ph": "M", "name": "process_sort_index", "pid": pid, "args": {"sort_index": pid}})

    def lane(self, pid: int, track: str, start: float, finish: float) -> int:
        """The thread id for a slice on a track; slices must come in order of their start."""
        lanes = self._busy_until.setdefault((pid, track), [])
        index = next((i for i, until in enumerate(lanes) if until <= start), len(lanes))
        if index == len(lanes):
            lanes.append(finish)
        lanes[index] = finish
        key = (pid, track, index)
        if key not in self._threads:
            self._threads[key] = len(self._threads) + 1
            name = track if index == 0 else f"{track} ({index + 1})"
            self.events.append(
                {"ph": "M", "name": "thread_name", "pid": pid, "tid": self._threads[key], "args": {"name": name}}
            )
        return self._threads[key]

    def slice(self, pid: int, tid: int, name: str, kind: str, start: float, finish: float, args: Event) -> None:
        event = {"ph": "X", "name": name, "cat": kind, "pid": pid, "tid": tid, "ts": _micro(start)}
        self.events.append(event | {"dur": _micro(finish - start), "args": args})


def tool_spans(trace: Iterable[Program], programs: Columns, calls: Columns, *, timed: bool) -> list[ToolSpan]:
    """When tools ran: a tool starts when all it waits for has ended, and its delay has passed.

    Tools take no resource, so their times follow from the calls' and need no table of their own.
    """
    ends = {(p, c): end for p, c, end in zip(calls["program"], calls["call"], calls["finish_s"], strict=True)}
    arrivals = dict(zip(programs["program"], programs["arrival_s"], strict=True))
    spans = []
    for program in trace:
        for node in (program.nodes[i] for i in topological_order(program.nodes)):
            if not isinstance(node, ToolNode):
                continue
            after = [ends.get((program.program, before)) for before in node.after]
            ready = max((end for end in after if end is not None), default=arrivals.get(program.program))
            if None in after or ready is None:
                continue  # refused, or the run was ended, before it got here
            start = ready + node.delay_s
            if timed and node.at_s is not None:
                start = max(start, node.at_s)
            ends[program.program, node.id] = start + node.duration_s
            spans.append(ToolSpan(program.program, node.id, node.tool, start, start + node.duration_s))
    return spans


def build(programs: Columns, calls: Columns, transfers: Columns, kv: Columns, tools: Sequence[ToolSpan]) -> Event:
    """The trace as one JSON object."""
    tracks = _Tracks()
    tracks.process(_ENGINE, "engine")
    names = {row["program"]: f"{row['program']} ({row['app']})" for row in _rows(programs)}
    names |= {name: f"{name} (not finished)" for name in calls["program"] if name not in names}
    pids = {name: _ENGINE + 1 + i for i, name in enumerate(names)}
    for name, title in names.items():
        tracks.process(pids[name], title)
    _add_calls(tracks, pids, calls)
    for span in sorted(tools, key=lambda t: (t.start_s, t.program, t.node)):
        pid = pids[span.program]
        tid = tracks.lane(pid, f"tool {span.tool}", span.start_s, span.finish_s)
        tracks.slice(pid, tid, span.node, "tool", span.start_s, span.finish_s, {"tool": span.tool})
    _add_transfers(tracks, transfers)
    for row in _rows(kv):
        blocks = {k.removesuffix("_blocks"): row[k] for k in ("running_blocks", "stalled_blocks", "cached_blocks")}
        counter = {"ph": "C", "pid": _ENGINE, "ts": _micro(row["time_s"])}
        tracks.events.append(counter | {"name": "GPU KV blocks", "args": blocks})
        tracks.events.append(counter | {"name": "CPU KV blocks", "args": {"used": row["cpu_blocks"]}})
    return {"displayTimeUnit": "ms", "traceEvents": tracks.events}


def _add_calls(tracks: _Tracks, pids: Mapping[str, int], calls: Columns) -> None:
    done = [row for row in _rows(calls) if row["finish_s"] is not None and row["admitted_s"] is not None]
    for row in sorted(done, key=lambda r: (r["arrival_s"], r["program"], r["call"])):
        pid = pids[row["program"]]
        tid = tracks.lane(pid, row["agent"], row["arrival_s"], row["finish_s"])
        sizes = ("prompt_tokens", "output_tokens", "computed_tokens", "gpu_hit_tokens", "cpu_hit_tokens", "preemptions")
        args = {k: row[k] for k in sizes}
        tracks.slice(pid, tid, row["call"], "llm", row["arrival_s"], row["finish_s"], args)
        first = row["first_token_s"] if row["first_token_s"] is not None else row["finish_s"]
        phases = (("queue", row["arrival_s"], row["admitted_s"]), ("prefill", row["admitted_s"], first))
        for name, start, finish in (*phases, ("decode", first, row["finish_s"])):
            if finish > start:
                tracks.slice(pid, tid, name, name, start, finish, {})


def _add_transfers(tracks: _Tracks, transfers: Columns) -> None:
    done = [row for row in _rows(transfers) if row["finish_s"] is not None]
    for row in sorted(done, key=lambda r: (r["start_s"], r["direction"], r["program"], r["call"])):
        tid = tracks.lane(_ENGINE, f"link {row['direction']}", row["start_s"], row["finish_s"])
        args = {k: row[k] for k in ("program", "call", "blocks", "bytes", "status")}
        tracks.slice(_ENGINE, tid, row["cause"], row["direction"], row["start_s"], row["finish_s"], args)
