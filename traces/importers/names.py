"""Names that importers make up: printable whatever the file is called."""

from __future__ import annotations

from pathlib import Path

from tokencake.traces.schema import Header

_SUFFIXES = (".gz", ".zst", ".jsonl", ".json", ".csv")


def stem(path: Path) -> str:
    """Return a file's or folder's name without its suffixes, printable and not empty.

    >>> stem(Path("logs/trace_7.json.gz"))
    'trace_7'
    """
    text = path.name
    while text.endswith(_SUFFIXES):
        text = text[: text.rindex(".")]
    return "".join(char if char.isprintable() else "?" for char in text)[:200] or "trace"


def header_for(path: Path, source: str, **labels: object) -> Header:
    """Return the header of a trace imported from ``path`` by the importer ``source``."""
    return Header(stem(path), labels={"source": source, **labels})
