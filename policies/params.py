"""Parameters of policies: the keyword-only arguments of ``__init__``, with their types and words."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any, get_type_hints

from tokencake.policies.api import Policy
from tokencake.policies.typed import type_name


class PolicyError(ValueError):
    """A policy or a parameter that cannot be used; ``str()`` is one line."""


class Required:
    """Stands for the default of a parameter that has none (only a custom policy may)."""


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of a policy.

    Attributes:
        name: Its name.
        type: Its type, as text.
        default: Its default, or :class:`Required`.
        doc: What it means.
    """

    name: str
    type: str
    default: Any
    doc: str


def params_of(policy: type[Policy]) -> tuple[Param, ...]:
    """Parameters of a policy, in the order of its ``__init__``."""
    hints = get_type_hints(policy.__init__)
    docs = _documented(policy)
    return tuple(
        Param(
            parameter.name,
            type_name(hints.get(parameter.name, Any)),
            Required if parameter.default is parameter.empty else parameter.default,
            docs.get(parameter.name, ""),
        )
        for parameter in inspect.signature(policy).parameters.values()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    )


def _documented(policy: type[Policy]) -> dict[str, str]:
    """Parameter descriptions from the ``Args:`` section of the class docstring (Google style)."""
    _, _, section = (inspect.getdoc(policy) or "").partition("\nArgs:\n")
    docs: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break
        entry = re.match(r" {4}(\w+)(?: \(.*\))?: (.*)", line)
        if entry:
            name = entry[1]
            docs[name] = entry[2]
        elif line.strip() and name:
            docs[name] += " " + line.strip()
    return docs
