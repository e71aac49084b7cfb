"""Policies by name, with their parameters.

A policy's parameters are the keyword-only arguments of its ``__init__``: the annotation is the type,
the default is the default, and the ``Args:`` section of the class docstring says what they mean.

>>> create("vllm-offload", {"prompt_only": False}).prompt_only
False
>>> create("vlm")
Traceback (most recent call last):
    ...
tokencake.policies.registry.PolicyError: unknown policy 'vlm'; did you mean 'vllm'?
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tokencake.policies.api import Policy
from tokencake.policies.autellix import Autellix
from tokencake.policies.concur import Concur
from tokencake.policies.continuum import Continuum
from tokencake.policies.infercept import InferCept
from tokencake.policies.kvflow import KVFlow
from tokencake.policies.random_legal import RandomLegal
from tokencake.policies.thunderagent import ThunderAgent
from tokencake.policies.vllm import Vllm
from tokencake.policies.vllm_offload import VllmOffload
from tokencake.policies.vllm_priority import VllmPriority

CUSTOM = "custom"
"""Name under which a class from outside the repository is created; it is not in :func:`names`."""


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


@dataclass(frozen=True, slots=True)
class PolicyInfo:
    """What a user wants to know of a policy.

    Attributes:
        name: Registered name.
        summary: First line of its docstring.
        params: Parameters in the order of its ``__init__``.
    """

    name: str
    summary: str
    params: tuple[Param, ...]


_POLICIES: dict[str, type[Policy]] = {}


def register(name: str, policy: type[Policy]) -> None:
    """Make a policy known by name.

    Raises:
        PolicyError: The name is taken, or the class is no policy with documented, optional parameters.
    """
    if name in _POLICIES or name == CUSTOM:
        raise PolicyError(f"policy {name!r} is registered already")
    _need_policy(policy, f"policy {name!r}")
    for param in _params(policy):
        if param.default is Required:
            raise PolicyError(f"policy {name!r}: parameter {param.name!r} must have a default")
        if not param.doc:
            raise PolicyError(f"policy {name!r}: parameter {param.name!r} must be documented under Args")
    _POLICIES[name] = policy


def names() -> tuple[str, ...]:
    """Registered names, in order of registration."""
    return tuple(_POLICIES)


def describe(name: str) -> PolicyInfo:
    """Summary and parameters of a registered policy.

    Raises:
        PolicyError: There is none of that name.
    """
    policy = _find(name)
    summary = (inspect.getdoc(policy) or "").partition("\n")[0]
    return PolicyInfo(name, summary, _params(policy))


def create(name: str, params: Mapping[str, Any] | None = None) -> Policy:
    """A fresh policy.

    Args:
        name: A registered name, or ``custom``.
        params: Parameters by name; for ``custom``, ``target`` (``"module:Class"``) and ``params``.

    Raises:
        PolicyError: Unknown name or parameter, or a value of the wrong type or outside its range.
    """
    given = dict(params or {})
    if name != CUSTOM:
        return _make(_find(name), given, "policy")
    target, inner = given.pop("target", None), given.pop("params", None) or {}
    if given:
        raise PolicyError(f"policy.{next(iter(given))}: unknown key; a custom policy takes target and params")
    if not isinstance(target, str) or not target:
        raise PolicyError(f"policy.target: must name a class as module:Class, got {target!r}")
    return _make(_load(target), dict(inner), "policy.params")


def _find(name: str) -> type[Policy]:
    policy = _POLICIES.get(name)
    if policy is None:
        raise PolicyError(f"unknown policy {name!r}; {_hint(name, (*_POLICIES, CUSTOM))}")
    return policy


def _hint(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known) or 'none'}"


# -- parameters ----------------------------------------------------------------------------------


def _make(policy: type[Policy], given: dict[str, Any], where: str) -> Policy:
    known = {param.name: param for param in _params(policy)}
    hints = get_type_hints(policy.__init__)
    for key in given:
        if key not in known:
            raise PolicyError(f"{where}.{key}: unknown parameter; {_hint(key, known)}")
    for key, param in known.items():
        if key in given:
            given[key] = _typed(given[key], hints.get(key, Any), f"{where}.{key}")
        elif param.default is Required:
            raise PolicyError(f"{where}.{key}: missing")
    try:
        return policy(**given)
    except ValueError as error:
        raise PolicyError(f"{where}: {error}") from error


def _typed(value: Any, hint: Any, where: str) -> Any:
    """``value`` if it is of type ``hint`` (a whole number is a float, too)."""
    if hint is Any:
        return value
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for option in options:
        if get_origin(option) is Literal:
            if value in get_args(option):
                return value
        elif type(value) is (get_origin(option) or option):
            return value
    if float in options and type(value) is int:
        return float(value)
    raise PolicyError(f"{where}: must be {_type_name(hint)}, got {value!r}")


def _type_name(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_type_name(option) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if hint is NoneType:
        return "null"
    return str(getattr(hint, "__name__", hint))


def _params(policy: type[Policy]) -> tuple[Param, ...]:
    hints = get_type_hints(policy.__init__)
    docs = _documented(policy)
    return tuple(
        Param(
            parameter.name,
            _type_name(hints.get(parameter.name, Any)),
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


# -- classes from outside the repository -----------------------------------------------------------


def _load(target: str) -> type[Policy]:
    where = f"policy.target {target!r}"
    module_name, colon, class_name = target.partition(":")
    if not (module_name and colon and class_name):
        raise PolicyError(f"{where}: must be module:Class")
    here = str(Path.cwd())
    if here not in sys.path:  # a console script does not look where it is started
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise PolicyError(f"{where}: there is no module {module_name!r}") from error
        raise PolicyError(f"{where}: cannot import {module_name}: {error}") from error
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise PolicyError(f"{where}: cannot import {module_name}: {text}") from error
    policy = getattr(module, class_name, None)
    if policy is None:
        found = [name for name, value in vars(module).items() if _is_policy(value) and value is not Policy]
        raise PolicyError(f"{where}: {module_name} has no {class_name!r}; {_hint(class_name, found)}")
    _need_policy(policy, where)
    return policy  # type: ignore[no-any-return]


def _is_policy(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Policy)


def _need_policy(value: object, where: str) -> None:
    if not _is_policy(value):
        raise PolicyError(f"{where}: must be a subclass of tokencake.policies.api.Policy, got {value!r}")


for _name, _policy in (
    ("vllm", Vllm),
    ("vllm-priority", VllmPriority),
    ("vllm-offload", VllmOffload),
    ("infercept", InferCept),
    ("continuum", Continuum),
    ("kvflow", KVFlow),
    ("autellix", Autellix),
    ("thunderagent", ThunderAgent),
    ("concur", Concur),
    ("random", RandomLegal),
):
    register(_name, _policy)
