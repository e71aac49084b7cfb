"""Values against the types that annotations name."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin


def typed(value: Any, hint: Any, where: str) -> Any:
    """``value`` if it is of type ``hint`` (a whole number is a float, too).

    Raises:
        ValueError: It is not; the message is one line that begins with ``where``.

    >>> typed(2, float | None, "policy.x")
    2.0
    """
    if hint is Any:
        return value
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for option in options:
        if get_origin(option) is Literal:
            if value in get_args(option):
                return value
        elif _is_a(value, get_origin(option) or option):
            return value
    if float in options and type(value) is int:
        return float(value)
    raise ValueError(f"{where}: must be {type_name(hint)}, got {value!r}")


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value is of a class; true and false are no numbers."""
    return type(value) is kind or (isinstance(kind, type) and not isinstance(value, bool) and isinstance(value, kind))


def type_name(hint: Any) -> str:
    """What an annotation says, in words for an error.

    >>> type_name(int | None)
    'int or null'
    """
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(type_name(option) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if hint is NoneType:
        return "null"
    return str(getattr(hint, "__name__", hint))
