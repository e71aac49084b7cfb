"""Reservations, and the rules that keep a host from waiting for ever."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tokencake.policies.api import Event, EventKind, Trigger, overrides
from tokencake.sim.calls import Call, Status
from tokencake.sim.config import PS, to_ps
from tokencake.sim.stall import Stall

if TYPE_CHECKING:
    from tokencake.sim.host import Host
    from tokencake.sim.placement import Placement


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

    def relieve(self) -> None:
        """Nothing runs and nothing could be planned: give something up, or wait for an event.

        In this order, each time planning again: what the policy gives up (PRESSURE), reservations,
        then the pin whose return is farthest. With nothing left to give up and nothing to come,
        parked programs are let go.
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
            host.plan_again()
            return
        starving = scheduler.short  # a policy may keep calls out on purpose; that gives nothing up
        if starving and self._placement.reserved:
            self._placement.reserved = {}
            host.metrics.count("reserves_lifted")
            host.reporter.tell(Event(EventKind.RESERVES_LIFTED, now / PS))
            host.plan_again()
            return
        pins = [s for s in self._placement.stalls.values() if s.pin.blocks or s.held.blocks]
        if starving and pins:
            self._placement.end_pin(max(pins, key=self._return_ps), EventKind.PIN_LIFTED)
            host.plan_again()
            return
        if host.clock.coming_ps == math.inf:
            parked = [run for run in host.driver.programs.values() if run.parked]
            for run in parked:
                run.parked = False
                host.metrics.count("parks_lifted")
            if parked:
                host.plan_again()

    def _return_ps(self, stall: Stall) -> tuple[int, int]:
        """When a stalled call's next call is expected, from declared estimates; then its age."""
        run = stall.call.program
        ends = [0]
        for node in run.following_tools(stall.call.node.id):
            started = run.tool_started_ps.get(node.id, stall.since_ps)
            ends.append(1 << 62 if node.estimate_s is None else started + to_ps(node.estimate_s))
        return max(ends), stall.call.order
