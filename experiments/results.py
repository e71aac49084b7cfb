"""Run directories: written whole or not at all, and read back.

`config.yaml`, `summary.json`, the parquet tables and the decision log hold nothing that differs between equal runs
(no clock, no path of this machine, no pandas metadata), so equal runs are equal bytes; what the clock says is in
`timing.json`.
"""

import gzip
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
import zstandard

from tokencake.experiments.columns import MEASURED, TABLES
from tokencake.experiments.errors import UsageError
from tokencake.experiments.words import named
from tokencake.traces.files import umask

SUMMARY = "summary.json"
OVERRIDES = "overrides.yaml"
SWEEP = "sweep.json"


class Table(Protocol):
    """A result table: columns of equal length."""

    @property
    def columns(self) -> Mapping[str, Sequence[Any]]:
        """Column name to values."""


def check_free(out: Path, overwrite: bool) -> None:
    """Refuse an output directory that is in use; only a run or sweep of ours may be overwritten.

    Raises:
        UsageError: `out` exists and `overwrite` is false, or it is not one of our directories, or cannot be written.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError(f"out={out}: exists and is not a directory")
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise UsageError(
                f"out={out}: directory is in use; choose another, or replace it with overwrite=true, or go on with what"
                " was stopped there with resume=true"
            )
        if not ((out / SUMMARY).is_file() or (out / SWEEP).is_file()):
            raise UsageError(f"out={out}: not a run or sweep directory (no {SUMMARY} or {SWEEP}), so not overwritten")
    parent = out.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UsageError(f"out={out}: {parent} is not a writable directory")


@contextmanager
def replacing(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary directory beside `out` that takes its place when the block ends, and vanishes if it fails."""
    check_free(out, overwrite)
    parent = out.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=parent))
    except OSError as error:
        raise UsageError(f"out={out}: cannot be written: {error.strerror or error}") from error
    try:
        yield temporary
        temporary.chmod(0o777 & ~umask())
        check_free(out, overwrite)
        if out.is_dir():
            old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=parent))
            out.rename(old / out.name)
            temporary.rename(out)
            shutil.rmtree(old)
        else:
            temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def to_arrow(name: str, table: Table) -> pa.Table:
    """The table with the documented column types; columns the documentation does not know are kept at the end.

    Raises:
        ValueError: a documented column is missing, or lengths differ (an error of the host, not of the user).
    """
    types, columns = (TABLES | MEASURED)[name], table.columns
    if missing := [c for c in types if c not in columns]:
        raise ValueError(f"{name}: missing columns {missing}")
    data = {c: pa.array(columns[c], type=pa.type_for_alias(kind)) for c, kind in types.items()}
    data |= {c: pa.array(values) for c, values in columns.items() if c not in types}
    return pa.table(data)


def dump_json(value: object) -> str:
    """Readable JSON; NaN and infinity are errors, so that every reader can read it."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def write_lines_zst(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON Lines, zstandard-compressed."""
    with path.open("wb") as file, zstandard.ZstdCompressor(level=3).stream_writer(file) as stream:
        for row in rows:
            stream.write(json.dumps(row, separators=(",", ":"), allow_nan=False).encode() + b"\n")


def read_lines_zst(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a decision log."""
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
        for line in io.TextIOWrapper(stream, encoding="utf-8"):
            yield json.loads(line)


def write_gzip_json(path: Path, value: object) -> None:
    """Compact JSON, gzip without a time stamp."""
    with path.open("wb") as file, gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as stream:
        stream.write(json.dumps(value, separators=(",", ":"), allow_nan=False).encode())


def write_run(
    directory: Path,
    *,
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    tables: Mapping[str, Table],
    timing: Mapping[str, Any],
    overrides: Sequence[str] = (),
    decisions: Table | None = None,
    timeline: object | None = None,
    measured: Mapping[str, Table | None] | None = None,
) -> None:
    """Write every file of a run into an empty directory (use with `replacing`)."""
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    (directory / "config.yaml").write_text(text, encoding="utf-8")
    text = yaml.safe_dump(list(overrides), allow_unicode=True)
    (directory / OVERRIDES).write_text(text, encoding="utf-8")
    found = {name: table for name, table in (measured or {}).items() if table is not None}
    for name, table in ({name: tables[name] for name in TABLES} | found).items():
        pq.write_table(to_arrow(name, table), directory / f"{name}.parquet", compression="zstd")
    if decisions is not None:
        names = list(decisions.columns)
        rows = (dict(zip(names, row, strict=True)) for row in zip(*decisions.columns.values(), strict=True))
        write_lines_zst(directory / "decisions.jsonl.zst", rows)
    if timeline is not None:
        write_gzip_json(directory / "timeline.json.gz", timeline)
    (directory / "timing.json").write_text(dump_json(dict(timing)), encoding="utf-8")
    (directory / SUMMARY).write_text(dump_json(dict(summary)), encoding="utf-8")


def finished_programs(summary: Mapping[str, Any]) -> int:
    """How many programs a summary's latencies are of: those that were not refused."""
    return int(summary["programs"]) - int(summary["refused_programs"])


@dataclass(frozen=True)
class Run:
    """A run directory, read lazily."""

    path: Path

    @property
    def repeat(self) -> int:
        """Which of several runs with one seed: a live engine's turn, or the one that a simulation is made for."""
        return int(self.config.get("live", {}).get("repeat", 0))

    @property
    def draw(self) -> int:
        """Which of several draws of step times, with one seed and for one repeat."""
        return int(self.config.get("hardware", {}).get("draw", 0))

    @cached_property
    def summary(self) -> dict[str, Any]:
        """`summary.json`."""
        try:
            loaded = json.loads((self.path / SUMMARY).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.path / SUMMARY}: cannot be read: {error}") from error
        if not isinstance(loaded, dict):
            raise UsageError(f"{self.path / SUMMARY}: not a JSON object")
        return loaded

    @property
    def outcome(self) -> dict[str, Any]:
        """The summary without the seed: equal for runs that went the same way."""
        return {key: value for key, value in self.summary.items() if key != "seed"}

    @cached_property
    def refused(self) -> tuple[str, ...]:
        """Programs that were refused, so that no latency is theirs."""
        if not self.summary["refused_programs"]:
            return ()
        programs = self.table("programs")
        return tuple(sorted(programs.loc[programs["refused"], "program"]))

    @cached_property
    def timing(self) -> dict[str, Any]:
        """`timing.json`; empty where there is none."""
        try:
            loaded = json.loads((self.path / "timing.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return loaded if isinstance(loaded, dict) else {}

    @cached_property
    def config(self) -> dict[str, Any]:
        """`config.yaml`, resolved."""
        try:
            loaded = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UsageError(f"{self.path / 'config.yaml'}: cannot be read: {error}") from error
        return loaded if isinstance(loaded, dict) else {}

    @cached_property
    def overrides(self) -> list[str] | None:
        """What was typed for the run, as in `overrides.yaml`; None where there is none."""
        try:
            loaded = yaml.safe_load((self.path / OVERRIDES).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return None
        return [str(word) for word in loaded] if isinstance(loaded, list) else None

    def table(self, name: str) -> pd.DataFrame:
        """One of `programs`, `calls`, `transfers`, `kv`."""
        path = self.path / f"{name}.parquet"
        try:
            frame = pq.read_table(path).to_pandas()
        except (OSError, pa.ArrowException) as error:
            raise UsageError(f"{path}: cannot be read: {error}") from error
        assert isinstance(frame, pd.DataFrame)
        return frame


def find_runs(paths: Iterable[Path]) -> list[Run]:
    """The runs in the given run or sweep directories; a sweep's in the order of its jobs, others by path.

    A run that several paths lead to is there several times.

    Raises:
        UsageError: a path does not exist or holds no run.
    """
    found: list[Run] = []
    for path in paths:
        if not path.is_dir():
            raise UsageError(f"{path}: no such directory")
        here = finished(path)
        jobs = {path / job: i for i, job in enumerate(jobs_of(path))}
        here.sort(key=lambda p: (jobs.get(p, len(jobs)), p))
        if not here:
            raise UsageError(f"{path}: holds no run ({SUMMARY} not found)")
        found += map(Run, here)
    return found


def complete(runs: Sequence[Run], *, idle: bool = True) -> tuple[list[Run], list[str]]:
    """The runs that went to their end, and what to say of the others: the numbers of those are of what had finished.

    Args:
        runs: Any runs.
        idle: Whether one of which no program finished is among them.

    Raises:
        UsageError: there is none.
    """
    given = {str(run.path): run for run in runs}
    cut = [path for path, run in given.items() if run.summary.get("interrupted")]
    empty = [] if idle else [p for p, run in given.items() if p not in cut and not finished_programs(run.summary)]
    said = [f"{named(cut)} {'was' if len(cut) == 1 else 'were'} interrupted"] if cut else []
    said += [f"{named(empty)} finished no program"] if empty else []
    whole = [run for run in runs if str(run.path) not in {*cut, *empty}]
    if not whole:
        raise UsageError(f"{' and '.join(said)}: no run that went to its end")
    return whole, [f"left out: {what}" for what in said]


def finished(path: Path) -> list[Path]:
    """Directories of the runs at or below a path; those under way are hidden."""
    return [p.parent for p in path.rglob(SUMMARY) if not _hidden(p.relative_to(path))]


def jobs_of(directory: Path) -> dict[str, dict[str, str]]:
    """A sweep's jobs, in order: their names, and what was chosen for each; none if the directory is no sweep's.

    Raises:
        UsageError: its list of jobs cannot be read.
    """
    sweep = directory / SWEEP
    if not sweep.is_file():
        return {}
    try:
        plan = json.loads(sweep.read_text(encoding="utf-8"))
        return {str(job): dict(choice) for job, choice in zip(plan["jobs"], plan["choices"], strict=True)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{sweep}: cannot be read: {error}") from error


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
