"""The trace that a run replays: a file (ours, or one that an importer knows) or a generator."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from tokencake.experiments.errors import UsageError, did_you_mean
from tokencake.traces.arrivals import Arrivals
from tokencake.traces.generators import GENERATORS
from tokencake.traces.io import programs_sha256, read_trace, trace_sha256
from tokencake.traces.schema import Header, Program


class TraceInput(Protocol):
    """Programs, as often as wanted, with what names them in results."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def identity(self) -> object:
        """Equal for equal inputs."""

    @property
    def sha256(self) -> str:
        """Digest of the trace, arrival times of the run not applied."""

    def programs(self) -> Iterator[Program]:
        """The programs, with the arrival times of this run."""

    def check(self) -> None:
        """Read all of it once; raises what is wrong with it."""


@dataclass(frozen=True)
class FileTrace:
    """A trace file."""

    path: Path
    arrivals: Arrivals

    @property
    def name(self) -> str:
        """The name in the file's header."""
        return read_trace(self.path).header.name

    @property
    def identity(self) -> object:
        """The path."""
        return self.path

    @property
    def sha256(self) -> str:
        """Digest of the uncompressed file."""
        return trace_sha256(self.path)

    def programs(self) -> Iterator[Program]:
        """The programs, retimed."""
        return self.arrivals.retime(read_trace(self.path))

    def check(self) -> None:
        """Validate every line."""
        for _ in read_trace(self.path):
            pass
