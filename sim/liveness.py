"""Reservations, and the rules that keep a host from waiting for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tokencake.policies.api import Event, EventKind, Trigger, overrides
from tokencake.sim.calls import Call, Status
from tokencake.sim.config import NEVER, PS, StuckError, to_ps, wake_ps
from tokencake.sim.stall import Stall

if TYPE_CHECKING:
    from tokencake.sim.host import Host
    from tokencake.sim.placement import Placement


MOST_IDLE_PLANS = 1_000_000
"""So often in a row nothing may be planned while calls wait; a policy that copies the same thing for ever gets here."""

MOST_STEPS_IN_VAIN = 100_000
"""In so many steps calls may lose their memory with no more computed than the time before, and nobody else decodes."""


MOST_WAKES = 1_000_000
"""So often in a row a policy may have itself woken, by timers and ends of pins, while nothing else happens."""


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
        self._changes = overrides(host.policy, "next_change")
        self._vain_steps = self._vain_at = self._ended = 0
        self._wakes = self._woken_ps = 0
        self._woken_since = (0, 0)

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
        """Nothing runs and calls wait: for a transfer, for something to be given up, or for the policy to change.

        Raises:
            StuckError: Nothing has run for too many plans.
        """
        host = self._host
        self._idle_plans = self._idle_plans + 1 if self._steps == host.metrics.steps else 0
        self._steps = host.metrics.steps
        if self._idle_plans == MOST_IDLE_PLANS:
            name = type(host.policy).__name__
            raise StuckError(f"policy {name} let nothing run in {MOST_IDLE_PLANS:,} plans in a row while calls wait")
        end = host.link.next_ps() if host.copies else NEVER
        if end == NEVER and self._relieve():
            host.plan_at(host.now_ps)
            return
        wake = min(end, self._change_ps())
        if wake < NEVER:
            host.plan_at(wake)

    def wake(self, happening: Callable[[], None]) -> None:
        """A time has come that the policy chose itself: let it happen.

        Raises:
            StuckError: Nothing else has happened for too many of them.
        """
        host = self._host
        steps = host.metrics.steps
        if self._woken_since != (steps, host.noticed):
            self._wakes = 0
        elif self._woken_ps < host.now_ps:
            self._wakes += 1
        host.notice(happening)
        self._woken_since, self._woken_ps = (steps, host.noticed), host.now_ps
        if self._wakes == MOST_WAKES:
            raise StuckError(
                f"policy {type(host.policy).__name__} had itself woken {MOST_WAKES:,} times in a row (Timer, Keep)"
                f" while nothing else happened, until {host.now_ps / PS:g} s"
            )

    def stuck(self) -> StuckError:
        """Calls wait, and nothing else will happen."""
        host = self._host
        names = ", ".join(list(host.driver.programs)[:3])
        return StuckError(
            f"policy {type(host.policy).__name__} admits nothing while {len(host.scheduler.waiting)}"
            f" calls wait and nothing else will happen (programs {names} ...)"
        )

    def unpark(self) -> bool:
        """Nothing is left to happen: let parked programs go, if calls wait; whether there were any."""
        host = self._host
        parked = [run for run in host.driver.programs.values() if run.parked] if host.scheduler.waiting else []
        for run in parked:
            run.parked = False
            host.metrics.count("parks_lifted")
        if parked:
            self._gave_up()
        return bool(parked)

    def preempted(self, call: Call) -> None:
        """A call lost its memory.

        All there is to compute is finite, so a run without an end has a last step in which a call gets further.

        Raises:
            StuckError: In too many steps calls were preempted that got no further in between, and no other one did.
        """
        host = self._host
        ended, steps = len(host.metrics.calls), host.metrics.steps
        decoding = len(host.scheduler.running) > len(host.scheduler.prefilling)
        if decoding or ended > self._ended or not call.in_vain:
            self._vain_steps, self._ended = 0, ended
        elif self._vain_at < steps:
            self._vain_at = steps
            self._vain_steps += 1
            if self._vain_steps == MOST_STEPS_IN_VAIN:
                raise StuckError(
                    f"policy {type(host.policy).__name__} had calls preempted in {MOST_STEPS_IN_VAIN:,} steps in a row"
                    f" before any got further ({call.id} was the last)"
                )

    def _change_ps(self) -> int:
        """When the policy says that its answers change; `NEVER` if that is not to come."""
        host = self._host
        change = host.policy.next_change(host.view) if self._changes else None
        if change is None or change[0] is None:
            return NEVER
        at = wake_ps(change[0])
        return at if at > host.now_ps else NEVER

    def _relieve(self) -> bool:
        """Nothing could be planned, and nothing is copied: give something up; whether a step is to be planned again.

        In this order: what the policy gives up (PRESSURE), reservations, then the pin whose return is
        farthest. The policy cannot take it back (:attr:`gives_way`) before a step has run.
        """
        host = self._host
        scheduler = host.scheduler
        if any(call.status is Status.LOADING for call in scheduler.loading):
            return False
        if any(stall.transfer is not None for stall in self._placement.stalls.values()):
            return False
        now = host.now_ps
        rung = self._relieved_at[1] + 1 if self._relieved_at[0] == now else 0
        self._relieved_at = (now, rung)
        if rung == 0 and self._places:
            self._placement.ask(Trigger.PRESSURE)
            return True
        if not scheduler.short:  # a policy may keep calls out on purpose; that gives nothing up
            return False
        if self._placement.reserved:
            self._placement.reserved = {}
            host.metrics.count("reserves_lifted")
            host.reporter.tell(Event(EventKind.RESERVES_LIFTED, now / PS))
            self._gave_up()
            return True
        pins = [s for s in self._placement.stalls.values() if s.pin.blocks or s.held.blocks]
        if pins:
            self._placement.end_pin(max(pins, key=self._return_ps), EventKind.PIN_LIFTED)
            self._gave_up()
        return bool(pins)

    def _gave_up(self) -> None:
        """Something was given up, which the policy cannot take back now."""
        self._given_up_at = (self._host.now_ps, self._host.metrics.steps)

    def _return_ps(self, stall: Stall) -> tuple[int, int]:
        """When a stalled call's next call is expected, from declared estimates; then its age."""
        run = stall.call.program
        ends = [0]
        for node in run.following_tools(stall.call.node.id):
            started = run.tool_started_ps.get(node.id, stall.since_ps)
            ends.append(NEVER if node.estimate_s is None else started + to_ps(node.estimate_s))
        return max(ends), stall.call.order
