"""Trace files of this project, so that importing one normalizes it (or changes its compression)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tokencake.traces.importers.report import Report
from tokencake.traces.io import Trace, read_trace
from tokencake.traces.schema import FORMAT, VERSION, Header, LLMNode, Program

SOURCE = "tokencake"
FORM = f'first line {{"format": "{FORMAT}", "version": {VERSION}, "name": "..."}}'


def sniff(path: Path, head: bytes) -> bool:
    """Return whether ``path`` looks like a trace of this project; ``head`` is its first bytes."""
    return path.is_file() and f'"{FORMAT}"'.encode() in head.lstrip().split(b"\n", 1)[0]


def read(path: Path, report: Report) -> tuple[Header, Iterator[Program]]:
    """Return header and programs of a trace file.

    Raises:
        BadInput: for a broken header; while iterating, for a broken program.
    """
    trace = read_trace(path)
    return trace.header, _programs(trace, report)


def _programs(trace: Trace, report: Report) -> Iterator[Program]:
    report.files += 1
    for program in trace:
        report.programs += 1
        report.calls += sum(isinstance(node, LLMNode) for node in program.nodes)
        yield program
