"""Checks of generator parameters; the errors name field, rule and value."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def check_choice(field: str, value: object, choices: Sequence[str]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        close = difflib.get_close_matches(str(value), choices, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"{field} must be one of {', '.join(choices)}, got {value!r}{hint}")


def check_count(field: str, value: object, least: int, most: int = 10**7) -> None:
    """Raise ValueError unless ``value`` is an integer from ``least`` to ``most``."""
    if type(value) is not int:
        raise ValueError(f"{field} must be an integer, got {value!r}")
    if not least <= value <= most:
        raise ValueError(f"{field} must be >= {least} and <= {most}, got {value}")


def check_number(field: str, value: float, least: float, most: float = 1e9) -> None:
    """Raise ValueError unless ``value`` is a number from ``least`` to ``most``."""
    if type(value) not in (int, float) or not least <= value <= most:
        raise ValueError(f"{field} must be >= {least:g} and <= {most:g}, got {value!r}")
