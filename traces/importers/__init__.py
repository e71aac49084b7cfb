"""Importers: recorded traces of other projects as programs.

An importer is a module with ``SOURCE``, ``FORM``, ``sniff(path, head)`` and ``read(path, report)``; it streams,
it refuses broken files with one clear :class:`~tokencake.traces.errors.BadInput`, and it counts every
liberty that it takes with odd data in the :class:`~tokencake.traces.importers.report.Report`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from tokencake.traces.files import StrPath, reading
from tokencake.traces.importers import mooncake, native, request_list, weka
from tokencake.traces.importers.report import Report
from tokencake.traces.importers.unknown import unknown
from tokencake.traces.io import write_trace
from tokencake.traces.schema import Header, Program

_HEAD = 1 << 16


class Importer(Protocol):
    """What the module of an importer offers."""

    SOURCE: str
    FORM: str

    def sniff(self, path: Path, head: bytes, /) -> bool:
        """Return whether the importer understands ``path``; ``head`` is its first bytes."""

    def read(self, path: Path, report: Report, /) -> tuple[Header, Iterator[Program]]:
        """Return header and programs; ``report`` is filled while the programs are iterated."""


IMPORTERS: Mapping[str, Importer] = {module.SOURCE: module for module in (native, request_list, mooncake, weka)}
"""Importers by name, in the order in which they are tried."""


def detect(path: StrPath) -> Importer:
    """Find out what ``path`` is.

    Raises:
        BadInput: when no importer understands it, with what each takes.
    """
    path = Path(path)
    head = b""
    if not path.is_dir():
        with reading(path) as stream:
            head = stream.read(_HEAD)
    for importer in IMPORTERS.values():
        if importer.sniff(path, head):
            return importer
    raise unknown(path, head, {source: importer.FORM for source, importer in IMPORTERS.items()})


def detect_and_import(path: StrPath) -> tuple[Header, Iterator[Program], Report]:
    """Find out what ``path`` is and open it.

    Returns:
        Header, programs (to be iterated once), and the report, complete after the iteration.

    Raises:
        BadInput: when no importer understands the path; while iterating, for broken content.
    """
    importer = detect(path)
    report = Report(importer.SOURCE)
    return *importer.read(Path(path), report), report


def import_any(path: StrPath, out: StrPath, *, overwrite: bool = False) -> dict[str, Any]:
    """Import ``path`` into the trace file ``out`` and return the report as a JSON object.

    Raises:
        BadInput: for input that is broken or unknown, and for an ``out`` that is already there;
            nothing is written then.
    """
    header, programs, report = detect_and_import(path)
    write_trace(out, header, programs, overwrite=overwrite)
    return report.as_dict()
