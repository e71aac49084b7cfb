"""Autellix, published as Agentix (NSDI'26): programs are scheduled by the service that they have had."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Literal

from tokencake.policies.api import (
    Action,
    CallView,
    ChainView,
    Event,
    EventKind,
    Info,
    Policy,
    Preempt,
    Trigger,
    View,
)
from tokencake.policies.service import CallClock, Service


@dataclass(slots=True)
class Ticket:
    """Place of a call in the queues.

    Attributes:
        level: Its queue, 0 first.
        entered: When it entered that queue, in seconds.
        arrival: Number of its arrival.
        service: What its program had attained when it arrived, in seconds (ATLAS: the longest chain).
        done: Its own service time at which it entered the queue, in seconds.
        forgiven_served: Own service time that no longer counts against starvation.
        forgiven_waited: Own waiting time that no longer counts.
    """

    level: int
    entered: float
    arrival: int
    service: float
    done: float = 0.0
    forgiven_served: float = 0.0
    forgiven_waited: float = 0.0


class Autellix(Policy):
    """Autellix: calls of the programs that have had least service go first, in multilevel queues.

    **Priority of a call** when it arrives (Autellix, arXiv 2502.13965, as Agentix in NSDI'26). *PLAS*:
    the summed service time of its program's finished calls. *ATLAS*: the longest chain of service
    times that its program has shown so far, kept as one number a program:
    ``max(p(call) + t(call))`` over its finished calls.

    **Queues.** ``queues`` of them; a call enters the one whose range contains its priority, and falls
    to the next when it has been served for that queue's quantum. First come, first served inside a
    queue. Every ``interval_steps`` steps, running calls of lower queues are preempted for waiting ones
    of higher queues that have no room otherwise and could start before it is looked at again, by the token
    budget; the victim when memory is short is the last of the lowest queue.

    **Starvation.** A waiting call moves to the first queue, and its own times are set to zero, when
    ``(W_program + W_call) / (T_program + T_call) >= starvation`` (W waited, T served).

    Assumed:
        The text that was read gives neither the number of queues, nor quanta, nor the starvation ratio, nor
        the interval: these are parameters whose values are ours. Queue i holds priorities from
        ``first_quantum_s * growth**(i - 1)`` to ``first_quantum_s * growth**i`` (the first from 0), and
        its quantum is the width of that range. By default the bounds go from 1 s to 1,024 s of service, so that
        neither a first call nor a program of many calls lies beyond them.

    **Swapping.** A preempted call's KV goes to the CPU tier and comes back. The engine frees what it
    preempts, so prompts are copied as they are computed, and a preempted call loads what it finds there.

    Not expressed:
        The paper's copy kernel moves KV when a call is preempted, and of that call alone. Here all prompts are
        copied, so returning calls hit the CPU tier, too; outputs of a preempted call are computed
        again; and copies age in a tier that everybody's prompts go through. Without a CPU tier, or with
        ``swap=false``, a preempted call recomputes, as in vLLM V1. Balancing between engines: there is one
        engine.

    Args:
        mode: ``plas`` (summed service) or ``atlas`` (longest chain of service).
        queues: Number of queues.
        first_quantum_s: Quantum of the first queue, in seconds.
        growth: Ratio between the bounds of two neighbouring queues.
        starvation: Ratio of waited to served time from which a call is helped.
        interval_steps: Steps between two looks at demotion, starvation and preemption.
        swap: Copy prompts to the CPU tier, so that a preempted call is loaded rather than computed again.
    """

    info = Info.NONE
    together: ClassVar = {"place": ("order", "it preempts for the calls that its own order starts next")}

    def __init__(
        self,
        *,
        mode: Literal["plas", "atlas"] = "plas",
        queues: int = 12,
        first_quantum_s: float = 1.0,
        growth: float = 2.0,
        starvation: float = 10.0,
        interval_steps: int = 20,
        swap: bool = True,
    ) -> None:
        for name, value in (("queues", queues), ("interval_steps", interval_steps)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        for name, number, least in (
            ("first_quantum_s", first_quantum_s, 0.0),
            ("growth", growth, 1.0),
            ("starvation", starvation, 0.0),
        ):
            if not number > least:
                raise ValueError(f"{name} must be > {least:g}, got {number}")
        self.mode = mode
        self.starvation = starvation
        self.interval_steps = interval_steps
        self.swap = swap
        self._bounds = list(accumulate([first_quantum_s] + [growth] * (queues - 2), lambda a, b: a * b))[: queues - 1]
        self._quanta = [high - low for low, high in zip([0.0, *self._bounds], self._bounds, strict=False)]
        self._service = Service()
        self._chains: dict[str, float] = {}
        self._tickets: dict[str, Ticket] = {}
        self._arrivals = 0

    # -- learning -----------------------------------------------------------------------------------

    def observe(self, event: Event, view: View) -> None:
        """Account for service; give a new call its ticket."""
        if event.kind is EventKind.CALL_FINISHED:
            self._ended(event)
        elif event.kind is EventKind.CALL_PREEMPTED:
            self._demote(event.call, self._service.call(event.program, event.call), event.at)
        self._service.observe(event)
        if event.kind is EventKind.CALL_QUEUED:
            self._arrived(event)
        elif event.kind is EventKind.PROGRAM_FINISHED:
            self._chains.pop(event.program, None)

    def _arrived(self, event: Event) -> None:
        if self.mode == "plas":
            attained = self._service.program(event.program).served
        else:
            attained = self._chains.get(event.program, 0.0)
        self._arrivals += 1
        level = bisect_right(self._bounds, attained)
        self._tickets[event.call] = Ticket(level, event.at, self._arrivals, attained)

    def _ended(self, event: Event) -> None:
        ticket = self._tickets.pop(event.call)
        clock = self._service.call(event.program, event.call)
        served = clock.served_at(event.at) if clock is not None else 0.0
        chain = ticket.service + served
        self._chains[event.program] = max(self._chains.get(event.program, 0.0), chain)

    # -- deciding -----------------------------------------------------------------------------------

    def order(self, view: View, waiting: Sequence[CallView]) -> Sequence[CallView]:
        """By queue, then by entry."""
        if not view.step % self.interval_steps:
            self._look(view, waiting, view.running)
        return sorted(waiting, key=self._rank)

    def _rank(self, call: CallView) -> tuple[int, float, int]:
        ticket = self._tickets[call.id]
        return ticket.level, ticket.entered, ticket.arrival

    def victim(self, view: View, need: int, for_call: CallView) -> CallView:
        """The last of the lowest queue."""
        return max(view.running, key=self._rank)

    def place(self, view: View, trigger: Trigger, subject: ChainView | None) -> Sequence[Action]:
        """Every ``interval_steps``: demote, help the starving, and preempt for higher queues."""
        if trigger is not Trigger.STEP or view.step % self.interval_steps:
            return ()
        if not self._service.waiting:
            return ()  # where nobody waits, queues decide nothing
        waiting, running = view.waiting, view.running
        self._look(view, waiting, running)
        return self._preempt(view, sorted(waiting, key=self._rank), sorted(running, key=self._rank))

    def store(self, view: View, chain: ChainView, cause: str) -> int:
        """What prefill has computed, if it is to be found after a preemption."""
        return chain.blocks if self.swap else 0

    def next_change(self, view: View) -> tuple[float | None, int | None] | None:
        """The next look, if somebody waits."""
        if not self._service.waiting:
            return None
        return None, view.step - view.step % self.interval_steps + self.interval_steps

    def _look(self, view: View, waiting: Sequence[CallView], running: Sequence[CallView]) -> None:
        """Demote who has used up a quantum, and help the starving; twice at one moment is once."""
        for call in running:
            self._demote(call.id, self._service.call(call.program.id, call.id), view.now)
        for call in waiting:
            if self._tickets[call.id].level:
                self._help(call, view.now)

    def _demote(self, call: str, clock: CallClock | None, now: float) -> None:
        """Let a call fall as many queues as its service since it entered them covers."""
        if clock is None:
            return
        ticket = self._tickets[call]
        served = clock.served_at(now)
        while ticket.level < len(self._quanta) and served - ticket.done >= self._quanta[ticket.level]:
            ticket.done += self._quanta[ticket.level]
            ticket.level += 1
            ticket.entered = now - (served - ticket.done)

    def _help(self, call: CallView, now: float) -> None:
        ticket = self._tickets[call.id]
        clock = self._service.call(call.program.id, call.id)
        if clock is None:
            return
        program = self._service.program(call.program.id)
        waited = program.waited + clock.waited_at(now) - ticket.forgiven_waited
        served = program.served + clock.served_at(now) - ticket.forgiven_served
        if waited >= self.starvation * served:
            ticket.level, ticket.entered = 0, now
            ticket.done = ticket.forgiven_served = clock.served_at(now)
            ticket.forgiven_waited = clock.waited_at(now)

    def _preempt(self, view: View, waiting: list[CallView], running: list[CallView]) -> list[Action]:
        """Make room for the waiting calls that can start before the next look, at the expense of lower queues."""
        slots = view.max_running - len(running)
        free = view.gpu.free
        tokens = self.interval_steps * view.token_budget
        actions: list[Action] = []
        for call in waiting:
            if tokens <= 0:
                break  # memory for what is behind would lie idle
            tokens -= call.prompt_tokens + call.output_tokens
            level = self._tickets[call.id].level
            need = -(-(call.prompt_tokens + call.output_tokens) // view.block_size)
            chosen: list[CallView] = []
            while (slots < 1 or free < need) and running and self._tickets[running[-1].id].level > level:
                chosen.append(running.pop())
                slots += 1
                free += chosen[-1].gpu_blocks
            if slots < 1 or free < need:
                break  # what is behind it must not take its place
            slots -= 1
            free -= need
            actions += [Preempt(victim.id) for victim in chosen]
        return actions
