"""What to say of a path that no importer knows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokencake.traces.errors import BadInput
from tokencake.traces.files import parse_json


def unknown(path: Path, head: bytes, forms: Mapping[str, str]) -> BadInput:
    """The error for a path that no importer knows.

    Args:
        path: A file or folder.
        head: The file's first bytes.
        forms: What each importer takes, by its name.
    """
    if path.is_dir():
        rule = "must be something that an importer knows: a file, or a folder with .json files of sessions (weka)"
        return BadInput(rule, file=path)
    lines = head.split(b"\n")
    number = next((i for i, line in enumerate(lines) if line.strip()), None)
    if number is None:
        return BadInput("must not be empty: the first line is a header", file=path, line=1)
    first = lines[number].decode("utf-8", "replace").strip()
    if _is_program(lines[number]):
        rule = f"must be a header ({forms['tokencake']}): programs stand below it"
    else:
        known = "; ".join(f"{name}: {form}" for name, form in forms.items())
        rule = f"must begin something that an importer knows ({known}; docs/traces.md)"
    return BadInput(rule, file=path, line=number + 1, value=first)


def _is_program(line: bytes) -> bool:
    try:
        value: Any = parse_json(line)
    except BadInput:
        return False
    return isinstance(value, dict) and "nodes" in value
