"""Reservations, and the rules that keep a host from waiting for ever."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tokencake.policies.api import Event, EventKind, Trigger, overrides
from tokencake.sim.calls import Call, Status
from tokencake.sim.config import PS, StuckError, to_ps
from tokencake.sim.stall import Stall

if TYPE_CHECKING:
    from tokencake.sim.host import Host
    from tokencake.sim.placement import Placement


MOST_IDLE_PLANS = 1_000_000
"""So often in a row nothing may be planned while calls wait; a policy that copies the same thing for ever gets here."""


class Liveness:
    """Says whether reservations leave room, and gives something up when nothing else can move.

    Args:
        host: The engine that must go on.
        placement: Keeps the stalls and the reservation plan.
    """

    def __init__(self, host: Host, placement: Placement):
        self._host = host
        self._placement = placement
        self._places = overrides(host.policy, "place")
        self._relieved_at = (-1, 0)
        self._given_up_at = (-1, 0)
        self._idle_plans = self._steps = 0

    def room(self, call: Call, blocks: int) -> bool:
        """Whether reservations leave a waiting call the ``blocks`` that it needs.

        A call draws on its own type's reserve and on what nobody reserved; every held block is
        charged once, to the type of its earliest-admitted holder, and what exceeds a type's reserve
        is charged to the shared part.
        """
        host = self._host
        scheduler = host.scheduler
        for running in scheduler.running:
            if running.decoding:
                scheduler.decodes.sync(running)
        holders = [c.holding for c in scheduler.running] + [c.holding for c in scheduler.loading]
        for stall in self._placement.stalls.values():
            holders += [stall.pin, stall.held, stall.source]
        charged: dict[str, int] = {}
        for holding, held in host.pool.charges(holders):
            name = holding.owner.node.agent_type  # type: ignore[attr-defined]
            charged[name] = charged.get(name, 0) + held
        reserved = self._placement.reserved
        shared = host.pool.capacity - sum(reserved.values())
        shared -= sum(max(0, n - reserved.get(name, 0)) for name, n in charged.items())
        mine = call.node.agent_type
        own = max(0, reserved.get(mine, 0) - charged.get(mine, 0))
        return blocks <= max(0, shared) + own

    @property
    def gives_way(self) -> bool:
        """Whether something was given up so that a call can start, and no time has passed and no step run since."""
        return self._given_up_at == (self._host.now_ps, self._host.metrics.steps)

    def wait(self) -> None:
        """Nothing runs and calls wait: for a transfer that is under way, or for something to be given up.

        Raises:
            StuckError: Nothing has run for too many plans.
        """
        host = self._host
        self._idle_plans = self._idle_plans + 1 if self._steps == host.metrics.steps else 0
        self._steps = host.metrics.steps
        if self._idle_plans == MOST_IDLE_PLANS:
            name = type(host.policy).__name__
            raise StuckError(f"policy {name} let nothing run in {MOST_IDLE_PLANS:,} plans in a row while calls wait")
        end = host.link.next_ps() if host.copies else math.inf
        if end == math.inf:
            self._relieve()
        else:
            host.plan_at(int(end))

    def _relieve(self) -> None:
        """Nothing could be planned, and nothing is copied: give something up, or wait for an event.

        In this order, each time planning again: what the policy gives up (PRESSURE), reservations,
        then the pin whose return is farthest. With nothing left to give up and nothing to come,
        parked programs are let go. The policy cannot take it back (:attr:`gives_way`) before a step has run.
        """
        host = self._host
        scheduler = host.scheduler
        if any(call.status is Status.LOADING for call in scheduler.loading):
            return
        if any(stall.transfer is not None for stall in self._placement.stalls.values()):
            return
        now = host.now_ps
        rung = self._relieved_at[1] + 1 if self._relieved_at[0] == now else 0
        self._relieved_at = (now, rung)
        if rung == 0 and self._places:
            self._placement.ask(Trigger.PRESSURE)
            host.plan_at(now)
            return
        starving = scheduler.short  # a policy may keep calls out on purpose; that gives nothing up
        if starving and self._placement.reserved:
            self._placement.reserved = {}
            host.metrics.count("reserves_lifted")
            host.reporter.tell(Event(EventKind.RESERVES_LIFTED, now / PS))
            self._plan_again()
            return
        pins = [s for s in self._placement.stalls.values() if s.pin.blocks or s.held.blocks]
        if starving and pins:
            self._placement.end_pin(max(pins, key=self._return_ps), EventKind.PIN_LIFTED)
            self._plan_again()
            return
        if host.clock.coming_ps == math.inf:
            parked = [run for run in host.driver.programs.values() if run.parked]
            for run in parked:
                run.parked = False
                host.metrics.count("parks_lifted")
            if parked:
                self._plan_again()

    def _plan_again(self) -> None:
        """Plan a step at this time once more, after something was given up."""
        self._given_up_at = (self._host.now_ps, self._host.metrics.steps)
        self._host.plan_at(self._host.now_ps)

    def _return_ps(self, stall: Stall) -> tuple[int, int]:
        """When a stalled call's next call is expected, from declared estimates; then its age."""
        run = stall.call.program
        ends = [0]
        for node in run.following_tools(stall.call.node.id):
            started = run.tool_started_ps.get(node.id, stall.since_ps)
            ends.append(1 << 62 if node.estimate_s is None else started + to_ps(node.estimate_s))
        return max(ends), stall.call.order
