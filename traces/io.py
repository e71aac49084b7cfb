"""Reading and writing trace files: JSON Lines, plain or compressed with gzip or zstandard.

Reading streams: one program at a time is in memory. Writing is atomic: the file appears complete
under its name or not at all, and a file that is there is not overwritten unless asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokencake.traces.encode import dumps, header_to_json, program_to_json
from tokencake.traces.errors import BadInput
from tokencake.traces.files import StrPath, json_lines, reading, writing
from tokencake.traces.schema import Header, Program
from tokencake.traces.unique import Names
from tokencake.traces.validate import header_from_json, program_from_json


class Trace:
    """A trace file that is open for reading, as often as wanted.

    Iterating yields the programs in file order and checks each line when it comes by.

    Attributes:
        path: where the file is.
        header: its first line.
    """

    def __init__(self, path: StrPath) -> None:
        """Open ``path`` and read its header.

        Raises:
            BadInput: when the file is missing, empty, or has no valid header.
        """
        self.path = Path(path)
        self.header = self._read_header()

    def _read_header(self) -> Header:
        for line, value in json_lines(self.path):
            try:
                return header_from_json(value)
            except BadInput as error:
                raise error.at(self.path, line) from None
        raise BadInput("must not be empty: the first line is a header", file=self.path, line=1)

    def __iter__(self) -> Iterator[Program]:
        """Yield the programs.

        Raises:
            BadInput: naming file, line, field, value and rule of the first thing that is wrong.
        """
        seen = Names()
        lines = json_lines(self.path)
        next(lines, None)  # the header
        for line, value in lines:
            try:
                program = program_from_json(value)
                seen.add(program)
            except BadInput as error:
                raise error.at(self.path, line) from None
            yield program


def read_trace(path: StrPath) -> Trace:
    """Open a trace file; its programs are read and checked when they are iterated.

    Raises:
        BadInput: when the file is missing, empty, or has no valid header.
    """
    return Trace(path)


def load_trace(path: StrPath) -> tuple[Header, list[Program]]:
    """Read a whole trace file, all of it or nothing.

    Raises:
        BadInput: for the first thing that is wrong anywhere in the file.
    """
    trace = Trace(path)
    return trace.header, list(trace)


def write_trace(path: StrPath, header: Header, programs: Iterable[Program], *, overwrite: bool = False) -> int:
    """Write a trace file and return the number of programs in it.

    The name's suffix chooses the compression (``.gz``, ``.zst``, or none). Equal input gives equal
    bytes. Every program is checked; on any failure nothing is left behind.

    Raises:
        BadInput: for an invalid program, a duplicate name, or a file that is already there.
    """
    lines = 0
    with writing(path, overwrite=overwrite) as out:
        for line in encoded_lines(header, programs):
            out.write(line)
            lines += 1
    return lines - 1


def encoded_lines(header: Header, programs: Iterable[Program]) -> Iterator[bytes]:
    """Yield the lines of a trace file, checked.

    Raises:
        BadInput: for an invalid header or program, or a duplicate name; an invalid program is
            named in the error's field.
    """
    yield dumps(_checked_header(header))
    seen = Names()
    for program in programs:
        value = program_to_json(program)
        try:
            program_from_json(value)
            seen.add(program)
        except BadInput as error:
            raise error.inside(f"program {str(program.program)[:80]!r}") from None
        yield dumps(value)


def trace_sha256(path: StrPath) -> str:
    """Return the SHA-256 of a trace file's uncompressed bytes, in hex.

    A trace has one digest, whether it is stored plain or compressed.

    Raises:
        BadInput: when the file cannot be read.
    """
    digest = hashlib.sha256()
    with reading(path) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def programs_sha256(header: Header, programs: Iterable[Program]) -> str:
    """Return what :func:`trace_sha256` would return for the file that :func:`write_trace` writes.

    Raises:
        BadInput: for an invalid program or a duplicate name.
    """
    digest = hashlib.sha256()
    for line in encoded_lines(header, programs):
        digest.update(line)
    return digest.hexdigest()


def _checked_header(header: Header) -> dict[str, object]:
    value = header_to_json(header)
    header_from_json(value)
    return value
