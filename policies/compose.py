"""One policy made of the decision points of several, so that a gain can be traced to a mechanism."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tokencake.policies.api import Event, EventKind, Info, Policy, View, overrides
from tokencake.policies.misspelt import misspelt_hooks

HOOKS = ("order", "admit", "budget", "victim", "place", "evict_order", "store")
"""Decision points that can come from different policies."""


class Compose(Policy):
    """Decision points of several policies in one: order from one, placement from another, and so on.

    What no part is named for is decided as in stock vLLM. A policy that is named for several decision
    points is one object, and every part observes every event, so each knows what it would know alone;
    what the engine refuses is told to the part that asked for it. The answers may change when those of
    any part may.

    Refused, because the parts contradict each other: a part that does not decide at the point that it is named
    for; a decision that makes sense only together with another one of the same policy
    (:attr:`~tokencake.policies.api.Policy.together`); parts that use different information levels, since
    one level holds for a whole run.

    Said when a run ends, because it seldom is what one wants: a decision that relies on another one of the
    same policy (:attr:`~tokencake.policies.api.Policy.better_with`). ``continuum`` and ``tokencake`` keep a
    stalled call's KV until its next call starts, and their own orders start such calls first. Under
    another order it lies idle while others queue for its memory: ``place=continuum`` with ``order=autellix``,
    which puts the programs that had much service last, is slower than either alone and than stock vLLM. An
    order by arrival of the program (``vllm-priority``) does no harm.

    Args:
        parts: Decision point (one of :data:`HOOKS`) to the policy that decides there; equal policies
            are one object.
        names: What to call each part in an error.

    Attributes:
        advice: What parts lose by being separated, a line each.
        parts: The policies, each once.

    Raises:
        ValueError: The parts contradict each other; the message says why.
    """

    def __init__(self, parts: Mapping[str, Policy], names: Mapping[str, str]):
        if not parts:
            raise ValueError(f"names no part; give one or more of {', '.join(HOOKS)}")
        for hook, part in parts.items():
            self._check(hook, part, parts, names)
        self.info = _level(parts, names)
        self.parts = list({id(part): part for part in parts.values()}.values())
        self._placing = parts.get("place")
        for hook, part in parts.items():
            setattr(self, hook, getattr(part, hook))
        if "store" in parts:
            self.store_when = parts["store"].store_when
        self.advice = tuple(_advice(parts, names))
        self.offloads = self._placing is not None and self._placing.offloads
        self._observers = [part for part in self.parts if overrides(part, "observe")]
        self._changing = [part for part in self.parts if overrides(part, "next_change")]
        if self._observers:
            vars(self)["observe"] = self._observe
        if self._changing:
            vars(self)["next_change"] = self._next_change

    def see(self, info: Info) -> None:
        """Let all parts that ask for durations or lengths be told them at another level."""
        self.info = info
        for part in self.parts:
            if part.info is not Info.NONE:
                part.info = info

    @staticmethod
    def _check(hook: str, part: Policy, parts: Mapping[str, Policy], names: Mapping[str, str]) -> None:
        name = names[hook]
        if not overrides(part, hook):
            decides = ", ".join(h for h in HOOKS if overrides(part, h)) or "nothing"
            told = "; ".join([f"{name} does not decide there", f"it decides {decides}", *misspelt_hooks(type(part))])
            raise ValueError(f"{hook}={name}: {told}")
        if hook in part.together:
            other, reason = part.together[hook]
            if parts.get(other) is not part:
                raise ValueError(f"{hook}={name} needs {other}={name}: {reason}")

    def _observe(self, event: Event, view: View) -> None:
        asked_by_place = event.kind is EventKind.ACTION_REFUSED and event.action is not None
        for part in self._observers:
            if not asked_by_place or part is self._placing:
                part.observe(event, view)

    def _next_change(self, view: View) -> tuple[float | None, int | None] | None:
        changes = [change for part in self._changing if (change := part.next_change(view)) is not None]
        times = [at_s for at_s, _ in changes if at_s is not None]
        steps = [step for _, step in changes if step is not None]
        return (min(times, default=None), min(steps, default=None)) if changes else None


def parts_of(policy: Policy) -> list[Policy]:
    """Who decides: the parts of a composition, else the policy itself."""
    return policy.parts if isinstance(policy, Compose) else [policy]


def _advice(parts: Mapping[str, Policy], names: Mapping[str, str]) -> Iterator[str]:
    """What parts lose by being separated from others of their policies."""
    for hook, part in parts.items():
        if hook in part.better_with:
            other, reason = part.better_with[hook]
            if parts.get(other) is not part:
                yield f"{hook}={names[hook]} without {other}={names[hook]}: {reason}"


def _level(parts: Mapping[str, Policy], names: Mapping[str, str]) -> Info:
    """The one information level of all parts that ask for anything."""
    asking = {hook: part for hook, part in parts.items() if part.info is not Info.NONE}
    if not asking:
        return Info.NONE
    first = next(iter(asking))
    for hook, part in asking.items():
        if part.info is not asking[first].info:
            raise ValueError(
                f"{first}={names[first]} uses information level {asking[first].info.name.lower()},"
                f" {hook}={names[hook]} {part.info.name.lower()}: one level holds for all; set policy.info"
            )
    return asking[first].info
