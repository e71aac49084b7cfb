"""Mooncake request logs: JSON Lines with timestamp (ms), input_length, output_length, hash_ids.

Every row becomes a program of one LLM call. Ids are chained hashes of 512-token blocks, global to
the file; the last one stands for a partial block. There are no sessions in the log: a later turn of a
conversation is a program of its own, and sharing comes from the hashes alone
(:mod:`tokencake.traces.importers.hashes`). Timestamps are kept as they are; the conversation log has
them in 3 s buckets, so spread them with another arrival process if that matters.

Rules for odd data, each counted in the report: an output of 0 tokens becomes 1; a prompt of 0 tokens
becomes 1; ids beyond the prompt's length are cut; keys that are not known are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokencake.traces.errors import BadInput
from tokencake.traces.fields import an_object, count, number, required
from tokencake.traces.files import json_lines
from tokencake.traces.importers.hashes import HashMap, Prompt
from tokencake.traces.importers.names import header_for, stem
from tokencake.traces.importers.odd import EMPTY_PROMPT, IDS_CUT, NO_OUTPUT, hash_ids
from tokencake.traces.importers.report import Report
from tokencake.traces.schema import Header, LLMNode, Program

SOURCE = "mooncake"
APP = "mooncake"
BLOCK_TOKENS = 512
KEYS = ("timestamp", "input_length", "output_length", "hash_ids")
FORM = f"JSON Lines with {', '.join(KEYS)}"
UNKNOWN = "unknown key ignored"


def sniff(path: Path, head: bytes) -> bool:
    """Return whether ``path`` looks like a Mooncake log; ``head`` is its first bytes."""
    first = head.lstrip().split(b"\n", 1)[0]
    return path.is_file() and all(f'"{key}"'.encode() in first for key in KEYS)


def read(path: Path, report: Report) -> tuple[Header, Iterator[Program]]:
    """Return header and programs of a Mooncake log.

    Raises:
        BadInput: while iterating, for a row or field that breaks a rule.
    """
    return header_for(path, SOURCE, block_tokens=BLOCK_TOKENS), _programs(path, report)


def _programs(path: Path, report: Report) -> Iterator[Program]:
    report.files += 1
    prompts = HashMap(stem(path), BLOCK_TOKENS, report)
    for line, value in json_lines(path):
        try:
            program = _program(an_object(value), report.programs, prompts, report)
        except BadInput as error:
            raise error.at(path, line) from None
        report.programs += 1
        report.calls += 1
        yield program


def _program(row: dict[str, Any], index: int, prompts: HashMap, report: Report) -> Program:
    arrival_s = number(required(row, "timestamp"), "timestamp", most=1e12) / 1000.0
    tokens = count(required(row, "input_length"), "input_length")
    output_tokens = count(required(row, "output_length"), "output_length")
    ids = hash_ids(required(row, "hash_ids"), "hash_ids")
    report.count(UNKNOWN, sum(key not in KEYS for key in row))
    report.count(EMPTY_PROMPT, tokens == 0)
    report.count(NO_OUTPUT, output_tokens == 0)
    tokens, output_tokens = max(1, tokens), max(1, output_tokens)
    most = -(-tokens // BLOCK_TOKENS)
    report.count(IDS_CUT, len(ids) > most)
    prompt, parts = prompts.add("call", ids[:most], tokens, output_tokens, _never)
    node = LLMNode("call", (), APP, APP, parts, output_tokens, output=(prompt.answer,))
    return Program(f"r{index}", APP, arrival_s, (node,))


def _never(_: Prompt) -> bool:
    return False  # every row is a program of its own
