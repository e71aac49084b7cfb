"""A section of a YAML file or of a configuration, made into the frozen dataclass that it describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from math import isfinite
from typing import Any, TypeVar, get_args, get_type_hints

from tokencake.policies.hints import did_you_mean
from tokencake.policies.typed import typed

_T = TypeVar("_T")


def build(cls: type[_T], values: Mapping[str, Any], where: str) -> _T:
    """Make a dataclass from a mapping, checking keys and types.

    Args:
        cls: The dataclass; its own checks name the field first.
        values: Values by field.
        where: Name of the section.

    Raises:
        ValueError: naming the key, the rule and the value, in one line.
    """
    hints = get_type_hints(cls)
    known = {field.name: field for field in fields(cls) if field.init}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ValueError(f"{where}.{key}: unknown key; {did_you_mean(key, known)}")
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{where}.{name}: missing")
    made = {key: setting(value, hints[key], f"{where}.{key}") for key, value in values.items()}
    try:
        return cls(**made)
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(f"{where}.") else f"{where}.{text}") from error


def setting(value: Any, hint: Any, where: str) -> Any:
    """A value if it is of type ``hint``; a number is text where only text is meant (``engine.version=0.32``).

    Raises:
        ValueError: naming the value and the rule.
    """
    if isinstance(value, float) and not isfinite(value):
        raise ValueError(f"{where}: must be finite, got {value}")
    kinds = get_args(hint) or (hint,)
    if str in kinds and type(value) in (int, float):
        return str(value)
    return typed(value, hint, where)
