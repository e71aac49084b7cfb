"""Policies that insist: small state machines that repeat patterns of actions at chosen moments, whatever comes of it.

What they remember changes only with what every host tells them at the same moment (events, and questions to
``place``), so the simulator must decide the same with and without jumps, and as vLLM does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tokencake.policies import api
from tokencake.policies.api import (
    Action,
    Budget,
    CallView,
    ChainView,
    Event,
    Need,
    Policy,
    Trigger,
    Verdict,
    View,
    stock_admit,
)

ON_CHAINS: dict[str, Callable[[View, str, int | None], Action]] = {
    "keep": lambda view, name, blocks: api.Keep(None, blocks, name),
    "keep a while": lambda view, name, blocks: api.Keep(view.now + 0.05, blocks, name),
    "keep a moment": lambda view, name, blocks: api.Keep(view.now + 1e-4, blocks, name),
    "offload": lambda view, name, blocks: api.Offload(blocks, name),
    "copy": lambda view, name, blocks: api.Offload(blocks, name, hold=False),
    "prefetch": lambda view, name, blocks: api.Prefetch(blocks, name),
    "hold": lambda view, name, blocks: api.Hold(blocks or 1, name),
    "hold all": lambda view, name, blocks: api.Hold(max(1, view.gpu.free), name),
    "cancel": lambda view, name, blocks: api.Cancel(name),
    "drop": lambda view, name, blocks: api.Drop(name),
    "unpin": lambda view, name, blocks: api.Unpin(name),
    "release": lambda view, name, blocks: api.Release(name),
}
ON_ENGINE: dict[str, Callable[[View], list[Action]]] = {
    "preempt first": lambda view: [api.Preempt(call.id) for call in view.running[:1]],
    "preempt last": lambda view: [api.Preempt(call.id) for call in view.running[-1:]],
    "preempt all": lambda view: [api.Preempt(call.id) for call in view.running],
    "preempt others": lambda view: [api.Preempt(call.id) for call in (*view.waiting, *view.loading)],
    "park": lambda view: [api.Park(call.program.id) for call in view.waiting],
    "unpark": lambda view: [api.Unpark(call.program.id) for call in view.waiting],
    "reserve all": lambda view: [api.Reserve({"nobody": view.gpu.capacity})],
    "reserve some": lambda view: [api.Reserve({"agent": view.gpu.capacity // 2, "x": view.gpu.capacity // 4})],
    "reserve none": lambda view: [api.Reserve({})],
}
ORDERS: dict[str, Callable[[list[CallView], int], list[CallView]]] = {
    "reverse": lambda calls, state: calls[::-1],
    "rotate": lambda calls, state: calls[state % len(calls) :] + calls[: state % len(calls)] if calls else [],
    "every other": lambda calls, state: calls[::2],
    "not the first": lambda calls, state: calls if state % 3 else calls[1:] or calls,
}
VICTIMS: dict[str, Callable[[View, CallView, int], CallView]] = {
    "first": lambda view, asking, turn: view.running[0],
    "in turn": lambda view, asking, turn: view.running[turn % len(view.running)],
    "the asking": lambda view, asking, turn: asking,
    "another": lambda view, asking, turn: next((c for c in view.running if c is not asking), asking),
    "waiting": lambda view, asking, turn: [*view.waiting, *view.running][0],
    "stalled": lambda view, asking, turn: [*(chain.call for chain in view.stalled), *view.running][0],
}
KEYS: dict[str, Callable[[CallView], object]] = {
    "equal": lambda call: 0,
    "named": lambda call: sum(map(ord, call.id)) % 5,
    "newest": lambda call: -call.arrival_s,
    "preempted": lambda call: (call.preemptions, call.id),
}


@dataclass(frozen=True)
class Habit:
    """What a policy does again and again.

    Attributes:
        triggers: When ``place`` has to be asked.
        patterns: Names of actions; the next time it is the next pattern's turn.
        chains: Which chains they concern.
        blocks: Blocks that they name.
        every: Only every so many times.
    """

    triggers: frozenset[Trigger]
    patterns: tuple[tuple[str, ...], ...]
    chains: str
    blocks: int | None
    every: int

    @classmethod
    def draw(cls, rng: random.Random) -> Habit:
        """A random habit."""
        kinds = (*ON_CHAINS, *ON_ENGINE, "timer", "timers", "steps")
        return cls(
            frozenset(rng.sample(list(Trigger), rng.choice((1, 1, 3)))),
            tuple(tuple(rng.choices(kinds, k=rng.randint(1, 3))) for _ in range(rng.randint(1, 3))),
            rng.choice(("subject", "all", "oldest", "newest", "remembered")),
            rng.choice((None, None, 1, 2, 10**9)),
            rng.choice((1, 1, 1, 2, 3)),
        )


class Insistent(Policy):
    """Has a few habits, and opinions at some of the other decision points.

    Args:
        seed: Decides everything.
    """

    def __init__(self, seed: int) -> None:
        rng = random.Random(f"insistent/{seed}")
        self._habits = [Habit.draw(rng) for _ in range(rng.randint(1, 4))]
        self._turns = [0] * len(self._habits)
        self._events = self._asked = self._chosen = 0
        self._timers = 200  # a policy whose timers never end plays for ever
        self._remembered: list[str] = []
        self.store_when = rng.choice(((), ("prompt",), ("output",), ("finished",), ("prompt", "output", "finished")))
        self._stores = rng.choices((0, 1, 2, 10**9), k=3)
        self._budgets = rng.choices((None, Budget(1), Budget(1, 1), Budget(7, 3), Budget(3, 1000), Budget(10**6)), k=2)
        self._ordered, self._chooses = ORDERS[rng.choice(list(ORDERS))], VICTIMS[rng.choice(list(VICTIMS))]
        self._key, self._admits = KEYS[rng.choice(list(KEYS))], rng.choice(("any", "all", "fitting", "later"))
        likely = {"observe": 0.8, "order": 0.3, "admit": 0.5, "budget": 0.5, "victim": 0.5, "place": 0.9}
        likely |= {"evict_order": 0.3, "store": 0.5, "next_change": 0.3}
        for hook, share in likely.items():
            if rng.random() < share:
                setattr(self, hook, getattr(self, f"_{hook}"))

    @property
    def _state(self) -> int:
        return self._events + self._asked

    def _observe(self, event: Event, view: View) -> None:
        self._events += 1
        if event.call and self._events % 7 == 0:
            self._remember(event.call)

    def _remember(self, name: str) -> None:
        self._remembered = [*self._remembered[-5:], name]

    def _place(self, view: View, trigger: Trigger, subject: ChainView | None) -> Sequence[Action]:
        self._asked += 1
        if subject is not None:
            self._remember(subject.call.id)
        actions: list[Action] = []
        for i, habit in enumerate(self._habits):
            if trigger in habit.triggers:
                self._turns[i] += 1
                turn, rest = divmod(self._turns[i], habit.every)
                if not rest:
                    actions += self._follow(habit, turn, view, subject)
        return actions[:40]

    def _follow(self, habit: Habit, turn: int, view: View, subject: ChainView | None) -> Iterator[Action]:
        stalled = [chain.call.id for chain in view.stalled]
        names = {
            "subject": stalled[:1] if subject is None else [subject.call.id],
            "all": stalled,
            "oldest": stalled[:1],
            "newest": stalled[-1:],
            "remembered": self._remembered,
        }[habit.chains]
        for kind in habit.patterns[turn % len(habit.patterns)]:
            if kind in ON_CHAINS:
                yield from [ON_CHAINS[kind](view, name, habit.blocks) for name in names]
            elif kind in ON_ENGINE:
                yield from ON_ENGINE[kind](view)
            elif self._timers:
                self._timers -= 1
                timer = api.Timer(steps=habit.blocks or 3) if kind == "steps" else api.Timer(view.now + 0.01)
                yield from [timer] * (2 if kind == "timers" else 1)

    def _order(self, view: View, waiting: Sequence[CallView]) -> Sequence[CallView]:
        return self._ordered(list(waiting), self._events)

    def _admit(self, view: View, call: CallView, need: Need) -> Verdict:
        if self._admits == "all" or (need.fits and not view.running):
            return Verdict.ADMIT
        if self._admits == "fitting":
            return Verdict.ADMIT if need.fits else Verdict.SKIP
        if self._admits == "later":
            return Verdict.LATER if self._state % 2 else stock_admit(need)
        return list(Verdict)[self._state % 4]

    def _budget(self, view: View) -> Budget | None:
        return self._budgets[self._state % 2]

    def _victim(self, view: View, need: int, for_call: CallView) -> CallView:
        self._chosen += 1
        return self._chooses(view, for_call, self._chosen)

    def _evict_order(self, view: View, tier: str) -> Callable[[CallView], Any]:
        return self._key

    def _store(self, view: View, chain: ChainView, cause: str) -> int:
        return self._stores[self._state % 3]

    def _next_change(self, view: View) -> tuple[float | None, int | None]:
        return None, view.step + 1
