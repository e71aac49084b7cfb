"""Request lists: CSV files with the columns arrived_at, num_prefill_tokens, num_decode_tokens.

Every row becomes a program of one LLM call whose prompt is shared with no other. ``arrived_at`` is in
seconds. Rules for odd data, each counted in the report: a request without prompt or output tokens
gets one; columns beyond the three are ignored.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

from tokencake.traces.errors import BadInput
from tokencake.traces.fields import MAX_TOKENS, number
from tokencake.traces.files import text_lines
from tokencake.traces.importers.names import header_for
from tokencake.traces.importers.report import Report
from tokencake.traces.schema import Header, LLMNode, Piece, Program

SOURCE = "request_list"
APP = "request"
COLUMNS = ("arrived_at", "num_prefill_tokens", "num_decode_tokens")
FORM = f"CSV with columns {', '.join(COLUMNS)}"
NO_PROMPT = "request without prompt tokens: 1 used"
NO_OUTPUT = "request without output tokens: 1 used"
EXTRA = "column ignored"


def sniff(path: Path, head: bytes) -> bool:
    """Return whether ``path`` looks like a request list; ``head`` is its first bytes."""
    first = head.lstrip().split(b"\n", 1)[0].decode("utf-8", "replace")
    return path.is_file() and set(COLUMNS) <= {cell.strip() for cell in first.split(",")}


def read(path: Path, report: Report) -> tuple[Header, Iterator[Program]]:
    """Return header and programs of a request list.

    Raises:
        BadInput: while iterating, for a row or field that breaks a rule.
    """
    return header_for(path, SOURCE), _programs(path, report)


def _programs(path: Path, report: Report) -> Iterator[Program]:
    report.files += 1
    columns: list[str] | None = None
    number_ = 0
    for line, raw in text_lines(path):
        try:
            cells = _cells(raw)
            if columns is None:
                columns = cells
                report.count(EXTRA, len(set(columns) - set(COLUMNS)))
                continue
            program = _program(number_, columns, cells, report)
        except BadInput as error:
            raise error.at(path, line) from None
        number_ += 1
        report.programs += 1
        report.calls += 1
        yield program


def _cells(raw: bytes) -> list[str]:
    try:
        rows = list(csv.reader([raw.decode("utf-8").rstrip("\r\n")], strict=True))
    except UnicodeDecodeError as error:
        raise BadInput(f"must be UTF-8 (byte {error.start + 1} is not)") from None
    except csv.Error as error:
        raise BadInput(f"must be CSV ({error})") from None
    return [cell.strip() for cell in rows[0]] if rows else []


def _program(index: int, columns: list[str], cells: list[str], report: Report) -> Program:
    if len(cells) != len(columns):
        raise BadInput(f"must have {len(columns)} columns", value=len(cells))
    row = dict(zip(columns, cells, strict=True))
    arrival_s = number(_number(row[COLUMNS[0]], COLUMNS[0]), COLUMNS[0])
    prompt_tokens = _tokens(row, COLUMNS[1])
    output_tokens = _tokens(row, COLUMNS[2])
    report.count(NO_PROMPT, prompt_tokens == 0)
    report.count(NO_OUTPUT, output_tokens == 0)
    name = f"r{index}"
    prompt = (Piece(name, max(1, prompt_tokens)),)
    return Program(name, APP, arrival_s, (LLMNode("call", (), APP, APP, prompt, max(1, output_tokens)),))


def _number(text: str, field: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadInput("must be a number", field=field, value=text) from None


def _tokens(row: dict[str, str], field: str) -> int:
    value = number(_number(row[field], field), field, most=MAX_TOKENS)
    if value != math.floor(value):
        raise BadInput("must be an integer", field=field, value=value)
    return int(value)
