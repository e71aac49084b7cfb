"""What each hook may answer: one rule a hook, for the hosts and for the contract suite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from tokencake.policies import api
from tokencake.policies.api import Action, Budget, Verdict

LATEST_S = 1e12
"""No time that a policy names is later, in seconds; a host counts picoseconds."""

_TIME = "a time in seconds of at most 1e12"


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
    """Times are finite numbers, blocks and steps are whole numbers, names are texts."""
    for name in ("call", "program"):
        _need(isinstance(getattr(action, name, ""), str), f"{name} of the right type", action)
    for name in ("until_s", "at_s"):
        value = getattr(action, name, 0.0)
        none = value is None and isinstance(action, api.Keep | api.Timer)
        _need(none or _is_time(value), f"{name} of the right type, {_TIME}", action)
    if isinstance(action, api.Timer):
        _need((action.at_s is None) != (action.steps is None), "a Timer with a time or with a number of steps", action)
        _need(action.steps is None or _whole(action.steps), "whole numbers of steps", action)
    blocks: Any = getattr(action, "blocks", 0)
    if isinstance(action, api.Reserve):
        by_type = isinstance(blocks, Mapping) and all(isinstance(name, str) for name in blocks)
        _need(by_type, "blocks by agent type", action)
        _need(all(map(_whole, blocks.values())), "whole numbers of blocks", action)
    else:
        whole_chain = blocks is None and not isinstance(action, api.Hold)
        _need(whole_chain or _whole(blocks), "whole numbers of blocks", action)


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
        _need(at_s is None or _is_time(at_s), f"{_TIME}, or None", answer)
        _need(step is None or (_whole(step) and step > view.step), "a later step", answer)
    return answer


def _listed(answer: Any, rule: str) -> list[Any]:
    _need(isinstance(answer, Iterable) and not isinstance(answer, str), rule, answer)
    return list(answer)


def _is_time(value: Any) -> bool:
    return isinstance(value, float | int) and abs(value) <= LATEST_S


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
    when: object = policy.store_when
    if isinstance(when, tuple | list) and all(cause in ("prompt", "output", "finished") for cause in when):
        return ""
    return f"store_when must be a tuple of prompt, output and finished, got {_shown(when)}"
