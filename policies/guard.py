"""Errors in the hooks of a policy from outside, as one line that names the hook and the place.

Hosts guard the policies that they are given. Those of this repository keep the contract
(:mod:`tokencake.policies.checks`) and are asked directly.
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokencake.policies.answers import RULES, BrokenRuleError, wrong_attribute
from tokencake.policies.api import CallView, Policy, overrides
from tokencake.policies.params import PolicyError

_OURS = "tokencake"
_NOT_THEIRS = sys.stdlib_module_names | {_OURS}


class HookError(PolicyError):
    """A hook failed, or answered what it must not; ``str()`` is one line, the cause is what happened."""


def is_outside(policy: type[Policy]) -> bool:
    """Whether a class is none of this repository's."""
    return not policy.__module__.startswith(f"{_OURS}.policies.")


def guard(policy: Policy) -> None:
    """Check every answer of a policy from outside this repository; changes the object, once.

    Raises:
        HookError: The class says of itself what cannot be.
    """
    if not is_outside(type(policy)):
        return
    try:
        complaint = wrong_attribute(policy)
        hooks = {hook: getattr(policy, hook) for hook in RULES if overrides(policy, hook)}
    except Exception as error:  # a property
        raise HookError(f"policy {type(policy).__name__} cannot be asked: {blame(error)}") from error
    if complaint:
        raise HookError(f"policy {type(policy).__name__}: {complaint}")
    for hook, decide in hooks.items():
        if not isinstance(decide, _Guarded):
            vars(policy)[hook] = _Guarded(policy, hook, decide)


class _Guarded:
    """A hook that says what went wrong in it; otherwise like the method that it stands for."""

    def __init__(self, policy: Policy, hook: str, decide: Callable[..., Any]):
        self.__self__ = policy
        self._hook = hook
        self._decide = decide
        self._rule = RULES[hook]

    def __call__(self, *asked: Any) -> Any:
        try:
            answer = self._rule(self._decide(*asked), *asked)
        except BrokenRuleError as error:
            raise HookError(f"{self._name} {error} ({_defined(self._decide)})") from error
        except Exception as error:
            raise self._failed(error) from error
        return self._ranked(answer) if self._hook == "evict_order" and answer is not None else answer

    def _ranked(self, key: Callable[[CallView], object]) -> Callable[[CallView], object]:
        """An eviction key whose values can be compared with each other, as far as a host does."""
        rule = f"{self._name} must return a key whose values compare, got {{}} ({_defined(key)})"

        def rank(call: CallView) -> object:
            try:
                value = key(call)
            except Exception as error:
                raise self._failed(error) from error
            ranked = _Rank(value, rule)
            if ranked < ranked or ranked != ranked:
                raise HookError(rule.format(repr(value)))
            return ranked

        return rank

    def _failed(self, error: Exception) -> HookError:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        return HookError(f"{self._name} raised {what} ({_raised(error) or _defined(self._decide)})")

    @property
    def _name(self) -> str:
        return f"policy {type(self.__self__).__name__}: {self._hook}"


class _Rank:
    """A value of an eviction key; says so if it does not compare with another one."""

    __slots__ = ("_rule", "_value")

    def __init__(self, value: Any, rule: str):
        self._value = value
        self._rule = rule

    def __lt__(self, other: _Rank) -> bool:
        try:
            return bool(self._value < other._value)
        except Exception as error:
            raise self._no_order(other) from error

    def __eq__(self, other: object) -> bool:
        try:
            return isinstance(other, _Rank) and bool(self._value == other._value)
        except Exception as error:
            raise self._no_order(other) from error

    __hash__ = None  # type: ignore[assignment]

    def _no_order(self, other: object) -> HookError:
        values = [self._value] if other is self else [self._value, getattr(other, "_value", other)]
        return HookError(self._rule.format(" and ".join(map(repr, values))))


def blame(error: Exception) -> str:
    """An error in somebody's own code as one line with its place."""
    what = " ".join(f"{type(error).__name__}: {error}".split())
    place = _raised(error)
    return f"{what} ({place})" if place else what


def _raised(error: Exception) -> str:
    """Where in a user's code an error passed last, as ``file:line``; empty if nowhere."""
    own = installed = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        module, filename = str(frame.f_globals.get("__name__", "")), frame.f_code.co_filename
        if module.partition(".")[0] in _NOT_THEIRS:
            continue
        place = f"{_short(filename)}:{line}"
        if "site-packages" in filename:
            installed = place
        else:
            own = place
    return own or installed


def _defined(function: Callable[..., Any]) -> str:
    """Where a function begins, as ``file:line``."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{_short(code.co_filename)}:{code.co_firstlineno}" if code is not None else "no Python function"


def _short(filename: str) -> str:
    """A path as one would type it here."""
    path, here = Path(filename), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else filename
