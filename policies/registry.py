"""Policies by name, with their parameters. A class that is not registered has the name ``module:Class``.

A policy's parameters are the keyword-only arguments of its ``__init__``: the annotation is the type,
the default is the default, and the ``Args:`` section of the class docstring says what they mean.

>>> create("vllm-offload", {"prompt_only": False}).prompt_only
False
>>> create("vlm")  # doctest: +ELLIPSIS
Traceback (most recent call last):
    ...
tokencake.policies.params.PolicyError: policy 'vlm': unknown policy; did you mean 'vllm'? (all ...: tokencake policies)
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from tokencake.policies.api import Info, Policy
from tokencake.policies.autellix import Autellix
from tokencake.policies.belady import Belady
from tokencake.policies.cached_attention import CachedAttention
from tokencake.policies.clairvoyant import Clairvoyant
from tokencake.policies.compose import HOOKS, Compose
from tokencake.policies.concur import Concur
from tokencake.policies.continuum import Continuum
from tokencake.policies.critical_path import CriticalPath
from tokencake.policies.guard import blame, guard, is_outside
from tokencake.policies.hints import did_you_mean
from tokencake.policies.infercept import InferCept
from tokencake.policies.kvflow import KVFlow
from tokencake.policies.lightllm import LightLLM
from tokencake.policies.mori import Mori
from tokencake.policies.outside import load, need_policy
from tokencake.policies.params import Param, PolicyError, Required, params_of
from tokencake.policies.random_legal import RandomLegal
from tokencake.policies.saga import Saga
from tokencake.policies.sglang_lpm import SGLangLPM
from tokencake.policies.srpf import ShortestRemaining
from tokencake.policies.thunderagent import ThunderAgent
from tokencake.policies.tokencake import Tokencake
from tokencake.policies.tokencake_upstream import TokencakeUpstream
from tokencake.policies.typed import typed
from tokencake.policies.vllm import Vllm
from tokencake.policies.vllm_offload import VllmOffload
from tokencake.policies.vllm_priority import VllmPriority

__all__ = [
    "COMPOSE",
    "CUSTOM",
    "LEVELS",
    "PolicyError",
    "PolicyInfo",
    "class_of",
    "create",
    "describe",
    "names",
    "register",
]

CUSTOM = "custom"
"""The long form of ``module:Class``, with ``target`` and ``params``; it is not in :func:`names`."""

COMPOSE = "compose"
"""Name under which decision points of several policies become one; it is not in :func:`names`."""

LEVELS = {level.name.lower(): level for level in Info if level is not Info.NONE}
"""Values of the parameter ``info`` of every policy that asks for durations or lengths."""


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


_LEVEL = Param(
    "info",
    " or ".join(map(repr, LEVELS)) + " or null",
    None,
    "Level at which durations and lengths are told; null: its own.",
)

_PARTS = Param("params", "dict", {}, "Parameters of the parts, by their names; of a class, by the class's.")

_OF_CUSTOM = (
    Param("target", "str", None, "The class, as module:Class."),
    Param("params", "dict", {}, "Its parameters."),
    _LEVEL,
)

_POLICIES: dict[str, type[Policy]] = {}


def register(name: str, policy: type[Policy]) -> None:
    """Make a policy known by name.

    Raises:
        PolicyError: The name is taken, or the class is no policy with documented, optional parameters.
    """
    if name in _POLICIES or name in (CUSTOM, COMPOSE):
        raise PolicyError(f"policy {name!r} is registered already")
    need_policy(policy, f"policy {name!r}")
    for param in params_of(policy):
        if param.default is Required:
            raise PolicyError(f"policy {name!r}: parameter {param.name!r} must have a default")
        if not param.doc:
            raise PolicyError(f"policy {name!r}: parameter {param.name!r} must be documented under Args")
    _POLICIES[name] = policy


def names() -> tuple[str, ...]:
    """Registered names, in order of registration."""
    return tuple(_POLICIES)


def describe(name: str) -> PolicyInfo:
    """Summary and parameters of a policy, ``custom`` and ``compose`` included.

    Raises:
        PolicyError: There is none of that name.
    """
    if name == CUSTOM:
        return PolicyInfo(name, "Your own class; policy=module:Class is the short form.", _OF_CUSTOM)
    policy = class_of(name)
    summary = (inspect.getdoc(policy) or "").partition("\n")[0]
    if name == COMPOSE:
        parts = tuple(
            Param(hook, "str or null", None, f"Policy that decides `{hook}`; null: stock vLLM.") for hook in HOOKS
        )
        return PolicyInfo(name, summary, (*parts, _PARTS, _LEVEL))
    try:
        params = params_of(policy)
    except Exception as error:
        if not is_outside(policy):
            raise
        raise _cannot_be_made(policy, error) from error
    if policy.info is not Info.NONE:
        params += (_LEVEL,)
    return PolicyInfo(name, summary, params)


def class_of(name: str) -> type[Policy]:
    """The class behind a registered name, ``module:Class``, or ``compose``.

    Raises:
        PolicyError: There is none of that name.
    """
    return Compose if name == COMPOSE else _find(name)


def create(name: str, params: Mapping[str, Any] | None = None) -> Policy:
    """A fresh policy.

    Args:
        name: A registered name, ``module:Class``, ``custom`` or ``compose``.
        params: Parameters by name. For ``custom``, ``target`` (``"module:Class"``) and ``params``; for
            ``compose``, a policy's name or ``module:Class`` for each decision point, and ``params``: the
            parameters of each part, by its name or its class's. ``info``, for any policy that asks for durations or
            lengths, is the level at which it is told them.

    Raises:
        PolicyError: Unknown name or parameter, a value of the wrong type or outside its range, or
            decision points that contradict each other.
    """
    given = dict(params or {})
    level = given.pop("info", None)
    if level is not None and level not in LEVELS:
        raise PolicyError(f"policy.info: must be one of {', '.join(LEVELS)} or null, got {level!r}")
    if name == COMPOSE:
        policy: Policy = _compose(given)
    elif name == CUSTOM:
        policy = _custom(given)
    else:
        policy = _make(_find(name), given, "policy", name)
    if level is not None:
        _see(policy, name, LEVELS[level])
    return policy


def _see(policy: Policy, name: str, level: Info) -> None:
    if policy.info is Info.NONE:
        raise PolicyError(f"policy.info: {name} asks for no duration and no length, so no level changes it")
    if isinstance(policy, Compose):
        policy.see(level)
    else:
        policy.info = level


def _custom(given: dict[str, Any]) -> Policy:
    target, inner = given.pop("target", None), given.pop("params", None) or {}
    if given:
        raise PolicyError(f"policy.{next(iter(given))}: unknown key; a custom policy takes target and params")
    if not isinstance(target, str) or not target:
        raise PolicyError(f"policy.target: must name a class as module:Class, got {target!r}")
    return _make(load(target, "policy.target"), dict(inner), "policy.params", target)


def _compose(given: dict[str, Any]) -> Policy:
    inner = given.pop("params", None) or {}
    names = {hook: given.pop(hook) for hook in HOOKS if given.get(hook) is not None}
    for key, value in given.items():
        if value is not None:
            raise PolicyError(f"policy.{key}: unknown key; {did_you_mean(key, (*HOOKS, 'params'))}")
    made: dict[str, Policy] = {}
    for hook, name in names.items():
        where = f"policy.{hook}"
        if not isinstance(name, str):
            raise PolicyError(f"{where}: must name a policy, got {name!r}")
        if name not in made:
            key = name if name in inner else _short(name)
            made[name] = _make(_find(name, where), dict(inner.get(key) or {}), f"policy.params.{key}", name)
    keys = dict.fromkeys([*map(_short, made), *made])
    for key in inner:
        if key not in keys:
            raise PolicyError(f"policy.params.{key}: no part of that name; {did_you_mean(key, keys)}")
    try:
        return Compose({hook: made[name] for hook, name in names.items()}, names)
    except ValueError as error:
        raise PolicyError(f"policy.{error}" if names else f"policy=compose {error}") from error


def _short(name: str) -> str:
    """The class of ``module:Class``, which is easier to type; a registered name as it is."""
    return name.rpartition(":")[2]


def _find(name: str, where: str = "policy") -> type[Policy]:
    if ":" in name:
        return load(name, where)
    policy = _POLICIES.get(name)
    if policy is None:
        known = did_you_mean(name, (*_POLICIES, CUSTOM, COMPOSE), "tokencake policies")
        raise PolicyError(f"{where} {name!r}: unknown policy; {known}")
    return policy


def _make(policy: type[Policy], given: dict[str, Any], where: str, name: str) -> Policy:
    try:
        made = policy(**_checked(policy, given, where, name))
    except PolicyError:
        raise
    except ValueError as error:
        raise PolicyError(f"{where}: {error}") from error
    except Exception as error:
        if not is_outside(policy):
            raise
        raise _cannot_be_made(policy, error) from error
    guard(made)
    return made


def _cannot_be_made(policy: type[Policy], error: Exception) -> PolicyError:
    return PolicyError(f"policy {policy.__name__} cannot be made: {blame(error)}")


def _checked(policy: type[Policy], given: dict[str, Any], where: str, name: str) -> dict[str, Any]:
    """Parameters of known names and right types."""
    known = {param.name: param for param in params_of(policy)}
    hints = get_type_hints(policy.__init__)
    for key in given:
        if key not in known:
            hint = did_you_mean(key, known) if known else f"{name} has none"
            raise PolicyError(f"{where}.{key}: unknown parameter; {hint}")
    for key, param in known.items():
        if key in given:
            try:
                given[key] = typed(given[key], hints.get(key, Any), f"{where}.{key}")
            except ValueError as error:
                raise PolicyError(str(error)) from error
        elif param.default is Required:
            raise PolicyError(f"{where}.{key}: missing")
    return given


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
    ("mori", Mori),
    ("saga", Saga),
    ("sglang-lpm", SGLangLPM),
    ("lightllm", LightLLM),
    ("cachedattention", CachedAttention),
    ("srpf", ShortestRemaining),
    ("critical-path", CriticalPath),
    ("belady", Belady),
    ("clairvoyant", Clairvoyant),
    ("tokencake", Tokencake),
    ("tokencake-upstream", TokencakeUpstream),
    ("random", RandomLegal),
):
    register(_name, _policy)
