"""What each hook may answer: one rule a hook, for the hosts and for the contract suite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from tokencake.policies import api
from tokencake.policies.api import Action, Budget, Verdict


class BrokenRuleError(Exception):
    """An answer that a hook must not give.

    Attributes:
        rule: What the hook must return.
        answer: What it returned instead.
    """

    def __init__(self, rule: str, answer: object):
        super().__init__(f"must return {rule}, got {_shown(answer)}")
        self.rule = rule
        self.answer = answer


def _shown(answer: object) -> str:
    text = " ".join(repr(answer).split())
    return text if len(text) <= 120 else text[:117] + "..."


def _need(condition: bool, rule: str, answer: object) -> None:
    if not condition:
        raise BrokenRuleError(rule, answer)


def _observe(answer: object, *_: object) -> None:
    _need(answer is None, "None: it decides nothing", answer)


def _order(answer: Iterable[Any], _: object, waiting: Iterable[Any]) -> list[Any]:
    calls = _listed(answer, "waiting calls, in an order")
    offered = {id(call) for call in waiting}
    named = {id(call) for call in calls}
    if len(named) < len(calls) or not named <= offered:
        _explain_order(calls, waiting)
    return calls


def _explain_order(calls: list[Any], waiting: Iterable[Any]) -> None:
    """Name what is wrong with an order; equal names are equal calls, whatever object shows them."""
    ids = {call.id for call in waiting}
    seen: set[str] = set()
    for call in calls:
        name = getattr(call, "id", None)
        if name is None and call in ids:
            raise BrokenRuleError("waiting calls themselves, not their ids", call)
        _need(isinstance(name, str) and name in ids, "waiting calls and nothing else", call if name is None else name)
        if name in seen:
            raise BrokenRuleError("each call once", [getattr(call, "id", call) for call in calls])
        seen.add(str(name))


def _admit(answer: object, *_: object) -> object:
    _need(isinstance(answer, Verdict), "a Verdict (ADMIT, SKIP, LATER or STOP)", answer)
    return answer


def _budget(answer: Any, *_: object) -> Any:
    if answer is not None:
        _need(isinstance(answer, Budget), "a Budget or None", answer)
        _need(_whole(answer.tokens) and answer.tokens > 0, "at least one token", answer)
        _need(_whole(answer.chunk) and answer.chunk >= 0, "a chunk of at least 0", answer)
    return answer


def _victim(answer: Any, *_: object) -> Any:
    _need(isinstance(getattr(answer, "id", None), str), "a running call", answer)
    return answer


def _place(answer: Any, *_: object) -> list[Any]:
    actions = _listed(answer, "a sequence of actions, () for none")
    for action in actions:
        _need(isinstance(action, get_args(Action)), "actions", action)
        _check_values(action)
    return actions


def _check_values(action: Any) -> None:
    """Times are numbers, blocks are whole numbers, names are texts."""
    for name, kinds in (("call", str), ("program", str), ("until_s", float | int | None), ("at_s", float | int)):
        if hasattr(action, name):
            value = getattr(action, name)
            _need(isinstance(value, kinds) and value == value, f"{name} of the right type", action)
    blocks: Any = getattr(action, "blocks", 0)
    if isinstance(action, api.Reserve):
        _need(isinstance(blocks, Mapping), "blocks by agent type", action)
    for value in blocks.values() if isinstance(blocks, Mapping) else (blocks,):
        _need(value is None or _whole(value), "whole numbers of blocks", action)


def _evict_order(answer: Any, *_: object) -> Any:
    _need(answer is None or callable(answer), "a key function or None", answer)
    return answer


def _store(answer: Any, *_: object) -> Any:
    _need(_whole(answer) and answer >= 0, "a number of blocks", answer)
    return answer


def _next_change(answer: Any, view: Any) -> Any:
    if answer is not None:
        _need(isinstance(answer, tuple) and len(answer) == 2, "a pair (time, step) or None", answer)
        at_s, step = answer
        _need(at_s is None or (isinstance(at_s, float | int) and at_s == at_s), "a time or None", answer)
        _need(step is None or (_whole(step) and step > view.step), "a later step", answer)
    return answer


def _listed(answer: Any, rule: str) -> list[Any]:
    _need(isinstance(answer, Iterable) and not isinstance(answer, str), rule, answer)
    return list(answer)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


RULES: Mapping[str, Callable[..., Any]] = {
    "observe": _observe,
    "order": _order,
    "admit": _admit,
    "budget": _budget,
    "victim": _victim,
    "place": _place,
    "evict_order": _evict_order,
    "store": _store,
    "next_change": _next_change,
}
"""For every hook: takes the answer and what the hook was asked, returns the answer (sequences as lists).

Each raises :class:`BrokenRuleError`.
"""

HOOKS = tuple(RULES)
"""All decision points, and the hooks beside them."""


def wrong_attribute(policy: api.Policy) -> str:
    """What is wrong with what a class says about itself; empty if nothing is."""
    info: object = policy.info
    if not isinstance(info, api.Info):
        return f"info must be an Info, got {info!r}"
    unknown = [cause for cause in policy.store_when if cause not in ("prompt", "output", "finished")]
    return f"store_when must name prompt, output or finished, got {unknown}" if unknown else ""
