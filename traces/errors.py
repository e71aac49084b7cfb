"""The one error of the trace package: what is wrong, where, and which rule it breaks."""

from __future__ import annotations

import os


class _Missing:
    """Marks "there is no value to show"."""

    def __repr__(self) -> str:
        return "nothing"


MISSING = _Missing()
_SHOWN = 60  # characters of an offending value that an error shows


class BadInput(Exception):  # noqa: N818 - the name is part of the public interface
    """A file or object that breaks a rule of the trace format.

    Attributes:
        file: path of the file, "" for an object built in memory.
        line: line number counted from 1, or None when no line is to blame.
        field: the field's path, for example ``nodes[2].output_tokens``.
        value: the offending value, or ``MISSING``.
        rule: the rule that is broken, for example ``must be >= 1``.
    """

    def __init__(
        self,
        rule: str,
        *,
        field: str = "",
        value: object = MISSING,
        file: str | os.PathLike[str] = "",
        line: int | None = None,
    ) -> None:
        self.rule = rule
        self.field = field
        self.value = value
        self.file = os.fspath(file)
        self.line = line
        super().__init__(rule)

    def inside(self, prefix: str) -> BadInput:
        """Return the same error with ``prefix`` put before its field path."""
        joint = "" if not self.field or self.field.startswith("[") else "."
        return BadInput(
            self.rule,
            field=prefix + joint + self.field,
            value=self.value,
            file=self.file,
            line=self.line,
        )

    def at(self, file: str | os.PathLike[str], line: int | None = None) -> BadInput:
        """Return the same error with the file and line where it was found."""
        return BadInput(self.rule, field=self.field, value=self.value, file=file, line=line)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.rule, self.field, self.value, self.file, self.line)

    def __str__(self) -> str:
        place = self.file
        if self.line is not None:
            place += f":{self.line}"
        parts = [part for part in (place, self.field) if part]
        shown = ""
        if self.value is not MISSING:
            shown = repr(self.value)
            if len(shown) > _SHOWN:
                shown = shown[: _SHOWN - 3] + "..."
            shown = f", got {shown}"
        # A path may hold a line break; an error is one line whatever happens.
        text = ": ".join([*parts, self.rule + shown])
        return " ".join(text.splitlines())


def _rebuild(rule: str, field: str, value: object, file: str, line: int | None) -> BadInput:
    return BadInput(rule, field=field, value=value, file=file, line=line)
