"""`tokencake diff`: the first decision that two runs took differently."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import zstandard

from tokencake.experiments.arguments import Parser
from tokencake.experiments.errors import UsageError
from tokencake.experiments.results import read_lines_zst

_LOG = "decisions.jsonl.zst"
_DECIDED = ("time_s", "step", "hook", "subject", "decision", "outcome")
_DIFFERS = 1

Row = Mapping[str, Any]


def run(words: Sequence[str]) -> None:
    """Compare two decision logs and show the first difference.

    Raises:
        UsageError: a run has no decision log.
        SystemExit: with status 1, if the runs differ.
    """
    parser = Parser(
        prog="tokencake diff",
        description="Names the first decision in which two runs differ, and shows what each of them saw."
        " The runs need log.decisions=true. Exit status: 0 if they are equal, 1 if not.",
    )
    parser.add_argument("first", type=Path, metavar="RUN_A")
    parser.add_argument("second", type=Path, metavar="RUN_B")
    parser.add_argument("--ignore-time", action="store_true", help="compare what was decided, not when")
    chosen = parser.parse_args(words)
    keys = tuple(key for key in _DECIDED if not (chosen.ignore_time and key in ("time_s", "step")))
    same = 0
    for ours, theirs in zip_longest(read_log(chosen.first), read_log(chosen.second)):
        if ours is None or theirs is None or any(ours[key] != theirs[key] for key in keys):
            _show(chosen.first, ours, chosen.second, theirs, same)
            raise SystemExit(_DIFFERS)
        same += 1
    print(
        f"equal: {same} decisions" if same else "equal: neither policy decided anything (tokencake compare has numbers)"
    )


def read_log(directory: Path) -> Iterator[Row]:
    """The decisions of a run, in order.

    Raises:
        UsageError: there is no log, or it cannot be read.
    """
    path = directory / _LOG
    if not path.is_file():
        if not directory.is_dir():
            raise UsageError(f"{directory}: no such directory")
        raise UsageError(f"{directory}: no {_LOG}; run it with log.decisions=true")
    try:
        rows = list(read_lines_zst(path))
    except (OSError, ValueError, zstandard.ZstdError) as error:
        raise UsageError(f"{path}: not a decision log: {error}") from error
    missing = [key for row in rows[:1] for key in (*_DECIDED, "digest", "seen") if key not in row]
    if missing:
        raise UsageError(f"{path}: not a decision log of this version: no {missing[0]}")
    return iter(rows)


def _show(first: Path, ours: Row | None, second: Path, theirs: Row | None, same: int) -> None:
    print(f"decision {same + 1} differs ({same} before it are equal)")
    for directory, row in ((first, ours), (second, theirs)):
        print(f"\n{directory}")
        if row is None:
            print("  has no further decision")
            continue
        subject = f" {row['subject']}" if row["subject"] else ""
        print(f"  {row['time_s']:.6f} s, step {row['step']}: {row['hook']}{subject}")
        print(f"  decision    {row['decision'] or '-'}")
        print(f"  outcome     {row['outcome']}")
        for name, value in json.loads(row["seen"]).items():
            print(f"  {name:<12}{_text(value)}")
    if ours is not None and theirs is not None:
        print(f"\nThe two saw {'the same' if ours['digest'] == theirs['digest'] else 'different things'}.")


def _text(value: object) -> str:
    if isinstance(value, list):
        return f"{len(value)}: {' '.join(value)}" if value else "0"
    if isinstance(value, dict):
        return ", ".join(f"{name} {blocks}" for name, blocks in value.items()) or "-"
    return str(value) or "-"
