"""A policy for tests: random legal decisions at every decision point.

Every answer is a function of the seed, the question and what the view shows; there is no sequence of
random numbers, so a host may ask more or less often. Answers about waiting calls and budgets hold for
an epoch of steps; ``next_change`` tells when the next one begins, and only then does ``place(STEP)``
act. So a host that jumps over uneventful steps must write the same bytes as one that does not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from hashlib import blake2b

from tokencake.policies import api
from tokencake.policies.api import (
    Action,
    Budget,
    CallView,
    ChainView,
    Event,
    EventKind,
    Info,
    Need,
    Policy,
    Trigger,
    Verdict,
    View,
    stock_admit,
)

STORES = ((), ("prompt",), ("prompt", "finished"), ("prompt", "output", "finished"))


class RandomLegal(Policy):
    """Random legal decisions at every decision point, to test hosts (not a policy to compare).

    A draw seeds a generator with a hash of the question, about five microseconds. So an order of 100 waiting calls
    costs 0.6 ms when an epoch of steps (two to forty of them) begins, and up to 0.1 ms in its other steps.

    Args:
        seed: Decides everything.
        wildness: Share of decisions that depart from stock vLLM, between 0 and 1.
    """

    def __init__(self, *, seed: int = 0, wildness: float = 0.5) -> None:
        if not 0 <= wildness <= 1:
            raise ValueError(f"wildness must be >= 0 and <= 1, got {wildness}")
        self.seed = seed
        self.wildness = wildness
        rng = self._draw("setup")
        self.info = rng.choice(tuple(Info))
        self.store_when = rng.choice(STORES)
        self.refused: list[Event] = []
        self._period = rng.choice((2, 5, 12, 40))
        self._evicts = {tier: rng.random() < 0.5 for tier in ("gpu", "cpu")}
        self._parked: dict[str, None] = {}
        self._ranked = -1  # the epoch of the ranks, which are kept because drawing them is slow
        self._ranks: dict[str, float] = {}

    # -- hooks -----------------------------------------------------------------------------------

    def observe(self, event: Event, view: View) -> None:
        """Remember refused actions and forget programs that ended."""
        if event.kind is EventKind.ACTION_REFUSED and event.action is not None:
            self.refused.append(event)
        if event.kind is EventKind.PROGRAM_FINISHED:
            self._parked.pop(event.program, None)

    def order(self, view: View, waiting: Sequence[CallView]) -> Sequence[CallView]:
        """A permutation that sometimes leaves calls out, but never while nothing runs."""
        epoch = self._epoch(view)
        if self._draw("order", epoch).random() > self.wildness:
            return waiting
        if epoch != self._ranked:
            self._ranked, self._ranks = epoch, {}
        ranked = sorted((self._rank(epoch, call.id), call.id, call) for call in waiting)
        return [call for rank, _, call in ranked if rank > 0.1 or not view.running]

    def admit(self, view: View, call: CallView, need: Need) -> Verdict:
        """Any verdict; stock vLLM's while nothing runs."""
        rng = self._draw("admit", self._epoch(view), call.id)
        if not view.running or rng.random() > self.wildness:
            return stock_admit(need)
        return rng.choice((Verdict.ADMIT, Verdict.ADMIT, Verdict.SKIP, Verdict.LATER, Verdict.STOP))

    def budget(self, view: View) -> Budget | None:
        """Any budget that lets at least one token through."""
        rng = self._draw("budget", self._epoch(view))
        if rng.random() > self.wildness:
            return None
        return Budget(rng.randint(1, view.token_budget), rng.choice((0, rng.randint(1, view.token_budget))))

    def victim(self, view: View, need: int, for_call: CallView) -> CallView:
        """Any running call that has not been preempted often; then the last one."""
        rng = self._draw("victim", view.now, view.step, for_call.id, need)
        fresh = [call for call in view.running if call.preemptions < 3]
        if not fresh or rng.random() > self.wildness:
            return view.running[-1]
        return rng.choice(fresh)

    def place(self, view: View, trigger: Trigger, subject: ChainView | None) -> Sequence[Action]:
        """A few actions that make sense for the trigger, and some that may be refused."""
        if trigger is Trigger.STEP and not self._turns(view.step):
            return ()
        rng = self._draw("place", trigger.name, view.now, view.step, subject.call.id if subject else "")
        if trigger is Trigger.PRESSURE or trigger is Trigger.TIMER:
            freed = [api.Unpark(name) for name in self._parked if trigger is Trigger.PRESSURE or rng.random() < 0.5]
            for action in freed:
                del self._parked[action.program]
            return [*freed, *self._actions(rng, view, None)]
        if rng.random() > self.wildness:
            return ()
        return self._actions(rng, view, subject)

    def evict_order(self, view: View, tier: str) -> Callable[[CallView], object] | None:
        """A rank for each call, or plain LRU."""
        if not self._evicts[tier]:
            return None
        return lambda call: self._draw("evict", tier, call.id).randrange(4)

    def store(self, view: View, chain: ChainView, cause: str) -> int:
        """Some leading blocks."""
        rng = self._draw("store", chain.call.id, cause)
        return chain.blocks if rng.random() > self.wildness else rng.randint(0, chain.blocks)

    def next_change(self, view: View) -> tuple[float | None, int | None] | None:
        """The first step of the next epoch."""
        epoch = (view.step + 1) // self._period
        start = self._start(epoch)
        return None, start if start > view.step else self._start(epoch + 1)

    # -- actions -----------------------------------------------------------------------------------

    def _actions(self, rng: random.Random, view: View, subject: ChainView | None) -> list[Action]:
        chains = list(view.stalled)
        if subject is not None and rng.random() < 0.7:
            chains = [subject]
        actions: list[Action] = []
        for _ in range(rng.randint(1, 3)):
            if chains and rng.random() < 0.7:
                actions.append(self._on_chain(rng, view, rng.choice(chains)))
            else:
                actions.extend(self._on_engine(rng, view))
        return actions

    def _on_chain(self, rng: random.Random, view: View, chain: ChainView) -> Action:
        name = chain.call.id
        blocks = rng.choice((None, rng.randint(0, chain.blocks + 1)))
        soon = view.now + rng.choice((0.0, rng.uniform(0.001, 0.5), self._return_s(view, chain)))
        return rng.choice(
            (
                api.Keep(rng.choice((None, soon)), blocks, name),
                api.Keep(None, blocks, name),
                api.Offload(blocks, name),
                api.Offload(None, name),
                api.Offload(blocks, name, hold=False),
                api.Prefetch(blocks, name),
                api.Prefetch(None, name),
                api.Hold(rng.randint(0, chain.cpu_blocks + 2), name),
                api.Hold(max(1, chain.cpu_blocks - chain.gpu_blocks), name),
                api.Drop(name),
                api.Unpin(name),
                api.Release(name),
                api.Cancel(name),
            )
        )

    def _return_s(self, view: View, chain: ChainView) -> float:
        """Seconds until the first tool that follows may end, as far as the policy may know."""
        if self.info is Info.NONE:
            return 0.1
        expected = [view.foresee_tool(chain.call.program, tool.node) for tool in chain.next_tools]
        return min((seconds for seconds in expected if seconds is not None), default=0.1)

    def _on_engine(self, rng: random.Random, view: View) -> list[Action]:
        calls = [*view.waiting, *view.running]
        kind = rng.choice(("reserve", "park", "unpark", "preempt", "timer"))
        if kind == "reserve":
            types = sorted({call.agent_type: None for call in calls})
            room = view.gpu.capacity // 2
            return [api.Reserve({name: rng.randint(0, room // len(types)) for name in types})]
        if kind == "park" and calls:
            program = rng.choice(calls).program.id
            self._parked[program] = None
            return [api.Park(program), api.Timer(view.now + rng.uniform(0.001, 1.0))]
        if kind == "unpark" and self._parked:
            return [api.Unpark(self._parked.popitem()[0])]
        if kind == "preempt":
            running = [call for call in view.running if call.preemptions < 2]
            return [api.Preempt(rng.choice(running).id)] if running else []
        if rng.random() < 0.5:
            return [api.Timer(steps=rng.randint(0, 40))]
        return [api.Timer(view.now + rng.uniform(-0.01, 0.5))]

    # -- epochs and draws ----------------------------------------------------------------------------

    def _start(self, epoch: int) -> int:
        """First step of an epoch: one in every ``period`` steps."""
        return epoch * self._period + self._draw("epoch", epoch).randrange(self._period)

    def _turns(self, step: int) -> bool:
        return step == self._start(step // self._period)

    def _epoch(self, view: View) -> int:
        epoch = view.step // self._period
        return epoch if view.step >= self._start(epoch) else epoch - 1

    def _rank(self, epoch: int, call: str) -> float:
        """Place of a waiting call in an epoch's orders."""
        rank = self._ranks.get(call)
        if rank is None:
            rank = self._ranks[call] = self._draw("rank", epoch, call).random()
        return rank

    def _draw(self, *question: object) -> random.Random:
        text = "/".join(map(repr, (self.seed, *question)))
        return random.Random(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())
