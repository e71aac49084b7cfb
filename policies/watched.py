"""A policy under observation: every answer is checked, and views show no more than the interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

from tokencake.policies import api
from tokencake.policies.api import Action, Budget, CallView, ChainView, Event, Need, Policy, Trigger, Verdict, View
from tokencake.policies.shown import Gallery

HOOKS = ("observe", "order", "admit", "budget", "victim", "place", "evict_order", "store", "next_change")


class Watched(Policy):
    """Decides what another policy decides, and checks it.

    A host skips the hooks that the other policy does not override, here as there.

    Args:
        policy: The policy to watch.
    """

    def __init__(self, policy: Policy):
        self.info = policy.info
        self.store_when = policy.store_when
        self._policy = policy
        self._gallery = Gallery()
        for hook in HOOKS:
            if api.overrides(policy, hook):
                setattr(self, hook, getattr(self, f"_{hook}"))

    def _observe(self, event: Event, view: View) -> None:
        answer: object = self._policy.observe(event, self._gallery.show(view))  # type: ignore[func-returns-value]
        _need(answer is None, "observe", "None", answer)

    def _order(self, view: View, waiting: Sequence[CallView]) -> Sequence[CallView]:
        answer = self._policy.order(self._gallery.show(view), self._gallery.show(waiting))
        ids = [call.id for call in answer]
        _need(len(set(ids)) == len(ids), "order", "each call once", ids)
        _need(set(ids) <= {call.id for call in waiting}, "order", "waiting calls", ids)
        return [self._gallery.behind(call) for call in answer]

    def _admit(self, view: View, call: CallView, need: Need) -> Verdict:
        answer = self._policy.admit(self._gallery.show(view), self._gallery.show(call), need)
        _need(isinstance(answer, Verdict), "admit", "a Verdict", answer)
        return answer

    def _budget(self, view: View) -> Budget | None:
        answer = self._policy.budget(self._gallery.show(view))
        if answer is not None:
            _need(isinstance(answer, Budget), "budget", "a Budget or None", answer)
            _need(_whole(answer.tokens) and answer.tokens > 0, "budget", "at least one token", answer)
            _need(_whole(answer.chunk) and answer.chunk >= 0, "budget", "a chunk of at least 0", answer)
        return answer

    def _victim(self, view: View, need: int, for_call: CallView) -> CallView:
        answer = self._policy.victim(self._gallery.show(view), need, self._gallery.show(for_call))
        running = [call.id for call in view.running]
        _need(getattr(answer, "id", None) in running, "victim", "a running call", answer)
        return self._gallery.behind(answer)  # type: ignore[no-any-return]

    def _place(self, view: View, trigger: Trigger, subject: ChainView | None) -> Sequence[Action]:
        answer = self._policy.place(self._gallery.show(view), trigger, self._gallery.show(subject))
        actions = list(answer)
        for action in actions:
            _need(isinstance(action, get_args(Action)), "place", "actions", action)
            _need_values(action)
        return actions

    def _evict_order(self, view: View, tier: str) -> Callable[[CallView], object] | None:
        key = self._policy.evict_order(self._gallery.show(view), tier)
        if key is None:
            return None
        _need(callable(key), "evict_order", "a key function or None", key)
        return lambda call: key(self._gallery.show(call))

    def _store(self, view: View, chain: ChainView, cause: str) -> int:
        answer = self._policy.store(self._gallery.show(view), self._gallery.show(chain), cause)
        _need(_whole(answer) and answer >= 0, "store", "a number of blocks", answer)
        return answer

    def _next_change(self, view: View) -> tuple[float | None, int | None] | None:
        answer = self._policy.next_change(self._gallery.show(view))
        if answer is not None:
            at_s, step = answer
            _need(at_s is None or isinstance(at_s, float | int), "next_change", "a time or None", answer)
            _need(step is None or (_whole(step) and step > view.step), "next_change", "a later step", answer)
        return answer


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _need_values(action: Action) -> None:
    """Times are numbers, blocks are whole numbers, names are texts."""
    for name, kinds in (("call", str), ("program", str), ("until_s", float | int | None), ("at_s", float | int)):
        if hasattr(action, name):
            value = getattr(action, name)
            _need(isinstance(value, kinds) and value == value, "place", f"{name} of the right type", action)
    blocks = getattr(action, "blocks", 0)
    numbers: list[Any] = list(action.blocks.values()) if isinstance(action, api.Reserve) else [blocks]
    for value in numbers:
        _need(value is None or _whole(value), "place", "whole numbers of blocks", action)


def _need(condition: bool, hook: str, rule: str, answer: object) -> None:
    assert condition, f"{hook} must return {rule}, got {answer!r}"
