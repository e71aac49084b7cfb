"""Checks of single JSON fields; each raises a :class:`BadInput` that names the field and the rule."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping
from sys import intern
from typing import Any

from tokencake.traces.errors import BadInput

MAX_TOKENS = 10**9
"""Largest token count that any field or any whole prompt may have."""
MAX_SECONDS = 1e9
"""Largest time or duration, in seconds (about 31 years)."""
MAX_NAME = 1000
"""Longest id or name, in characters."""

Object = Mapping[str, Any]


def an_object(value: object, field: str = "") -> dict[str, Any]:
    """Return ``value`` if it is a JSON object."""
    if type(value) is not dict:
        raise BadInput("must be a JSON object", field=field, value=value)
    return value


def known_keys(obj: Object, known: Collection[str]) -> None:
    """Refuse keys that are not in ``known``, with a suggestion."""
    for key in obj:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise BadInput(f"unknown key{hint}", field=str(key)[:80])


def required(obj: Object, key: str) -> Any:
    """Return ``obj[key]``."""
    try:
        return obj[key]
    except KeyError:
        raise BadInput("is required", field=key) from None


def name(value: object, field: str) -> str:
    """Return ``value``, interned, if it is a non-empty printable string."""
    if type(value) is not str:
        raise BadInput("must be a string", field=field, value=value)
    if not value or not value.isprintable():
        raise BadInput("must be a non-empty string of printable characters", field=field, value=value)
    if len(value) > MAX_NAME:
        raise BadInput(f"must have at most {MAX_NAME} characters", field=field, value=value)
    return intern(value)


def count(value: object, field: str, least: int = 0) -> int:
    """Return ``value`` if it is an integer from ``least`` to ``MAX_TOKENS``."""
    if type(value) is not int:
        raise BadInput("must be an integer", field=field, value=value)
    if value < least:
        raise BadInput(f"must be >= {least}", field=field, value=_small(value))
    if value > MAX_TOKENS:
        raise BadInput(f"must be <= {MAX_TOKENS}", field=field, value=_small(value))
    return value


def number(value: object, field: str, least: float = 0.0, most: float = MAX_SECONDS) -> float:
    """Return ``value`` as a float if it is a finite number from ``least`` to ``most``."""
    if type(value) is not float and type(value) is not int:
        raise BadInput("must be a number", field=field, value=value)
    if type(value) is float and not math.isfinite(value):
        raise BadInput("must be finite", field=field, value=value)
    if value < least:
        raise BadInput(f"must be >= {least:g}", field=field, value=_small(value))
    if value > most:
        raise BadInput(f"must be <= {most:g}", field=field, value=_small(value))
    return value + 0.0  # -0.0 becomes 0.0, so that equal traces have equal bytes


def flag(value: object, field: str) -> bool:
    """Return ``value`` if it is true or false."""
    if type(value) is not bool:
        raise BadInput("must be true or false", field=field, value=value)
    return value


def array(value: object, field: str) -> list[Any]:
    """Return ``value`` if it is a JSON array."""
    if type(value) is not list:
        raise BadInput("must be an array", field=field, value=value)
    return value


def labels(obj: Object) -> dict[str, Any]:
    """Return the free ``labels`` of ``obj``: any JSON values whose numbers are finite."""
    value = obj.get("labels")
    if value is None:
        return {}
    if type(value) is not dict:
        raise BadInput("must be a JSON object", field="labels", value=value)
    _json(value, "labels", 0)
    return value


def _json(value: object, field: str, depth: int) -> None:
    if value is None or type(value) in (str, bool):
        return
    if depth > 20:
        raise BadInput("must not nest deeper than 20 levels", field=field)
    if type(value) is int:
        if value.bit_length() > 1000:
            raise BadInput("must have at most 1000 bits", field=field, value=_small(value))
    elif type(value) is float:
        if not math.isfinite(value):
            raise BadInput("must be finite", field=field, value=value)
    elif type(value) is list:
        for index, item in enumerate(value):
            _json(item, f"{field}[{index}]", depth + 1)
    elif type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise BadInput("must have string keys", field=field, value=key)
            _json(item, f"{field}.{key[:40]}", depth + 1)
    else:
        raise BadInput("must be a JSON value", field=field, value=value)


def _small(value: float) -> float | str:
    """Return ``value`` in a form that prints quickly however many digits it has."""
    if not isinstance(value, int) or value.bit_length() <= 200:
        return value
    return ("-" if value < 0 else "") + f"about 2**{value.bit_length()}"
