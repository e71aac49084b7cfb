"""A policy under observation: every answer is checked, and views show no more than the interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tokencake.policies import api
from tokencake.policies.answers import RULES, BrokenRuleError
from tokencake.policies.api import Action, Budget, CallView, ChainView, Event, Need, Policy, Trigger, Verdict, View
from tokencake.policies.shown import Gallery


class Watched(Policy):
    """Decides what another policy decides, and checks it.

    A host skips the hooks that the other policy does not override, here as there.

    Args:
        policy: The policy to watch.
    """

    def __new__(cls, policy: Policy) -> Watched:
        """Make one whose class has the name of the other's, since a host calls a policy by that."""
        return super().__new__(type(type(policy).__name__, (cls,), {}))

    def __init__(self, policy: Policy):
        self.info = policy.info
        self.store_when = policy.store_when
        self._policy = policy
        self._gallery = Gallery()
        for hook in RULES:
            if api.overrides(policy, hook):
                setattr(self, hook, getattr(self, f"_{hook}"))

    def _observe(self, event: Event, view: View) -> None:
        shown = self._gallery.show(view)
        _keep("observe", self._policy.observe(event, shown))  # type: ignore[func-returns-value]

    def _order(self, view: View, waiting: Sequence[CallView]) -> Sequence[CallView]:
        shown, offered = self._gallery.show(view), self._gallery.show(waiting)
        answer = _keep("order", self._policy.order(shown, offered), shown, offered)
        return [self._gallery.behind(call) for call in answer]

    def _admit(self, view: View, call: CallView, need: Need) -> Verdict:
        answer = self._policy.admit(self._gallery.show(view), self._gallery.show(call), need)
        return _keep("admit", answer)  # type: ignore[no-any-return]

    def _budget(self, view: View) -> Budget | None:
        return _keep("budget", self._policy.budget(self._gallery.show(view)))  # type: ignore[no-any-return]

    def _victim(self, view: View, need: int, for_call: CallView) -> CallView:
        answer = _keep("victim", self._policy.victim(self._gallery.show(view), need, self._gallery.show(for_call)))
        running = [call.id for call in view.running]
        assert answer.id in running, f"victim must return a running call, got {answer!r}"
        return self._gallery.behind(answer)  # type: ignore[no-any-return]

    def _place(self, view: View, trigger: Trigger, subject: ChainView | None) -> Sequence[Action]:
        answer = self._policy.place(self._gallery.show(view), trigger, self._gallery.show(subject))
        return _keep("place", answer)  # type: ignore[no-any-return]

    def _evict_order(self, view: View, tier: str) -> Callable[[CallView], object] | None:
        key = _keep("evict_order", self._policy.evict_order(self._gallery.show(view), tier))
        return None if key is None else lambda call: key(self._gallery.show(call))

    def _store(self, view: View, chain: ChainView, cause: str) -> int:
        answer = self._policy.store(self._gallery.show(view), self._gallery.show(chain), cause)
        return _keep("store", answer)  # type: ignore[no-any-return]

    def _next_change(self, view: View) -> tuple[float | None, int | None] | None:
        shown = self._gallery.show(view)
        return _keep("next_change", self._policy.next_change(shown), shown)  # type: ignore[no-any-return]


def _keep(hook: str, answer: object, *asked: object) -> Any:
    """The answer, if the hook may give it."""
    try:
        return RULES[hook](answer, *asked)
    except BrokenRuleError as error:
        raise AssertionError(f"{hook} {error}") from None
