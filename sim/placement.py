"""Asks a policy where KV goes, and follows finished calls until what comes after them has started.

A finished call whose next calls have not all been admitted is a :class:`Stall`; its pin, its transfer
and the blocks held for its return belong to it. An action that is refused
(:mod:`tokencake.sim.actions`) comes back to the policy as ``ACTION_REFUSED`` with the reason.
"""

from __future__ import annotations

from heapq import heappop
from typing import TYPE_CHECKING

from tokencake.policies import api
from tokencake.policies.api import Event, EventKind, Trigger, overrides
from tokencake.sim.actions import Actions
from tokencake.sim.call_view import ChainView
from tokencake.sim.calls import Call, ProgramRun
from tokencake.sim.config import PS
from tokencake.sim.extents import Holding
from tokencake.sim.liveness import Liveness
from tokencake.sim.stall import Stall

if TYPE_CHECKING:
    from tokencake.sim.host import Host
    from tokencake.traces.schema import ToolNode

_SEEING = ("place", "observe", "order", "admit", "budget", "victim", "evict_order", "store", "next_change")
"""Hooks that are given a view, and with it the stalled chains."""


class Placement:
    """Asks ``place``, and keeps stalls and the reservation plan.

    Attributes:
        pinned_blocks: GPU blocks held by stalls.
        reserved: GPU blocks reserved per agent type.
        stalls: Stalled calls by id, oldest first.
        step_timers: Steps whose planning a policy wants to be asked at, the next one first.
    """

    def __init__(self, host: Host):
        self._host = host
        self._places = overrides(host.policy, "place")
        self._shows = any(overrides(host.policy, hook) for hook in _SEEING)
        self.reserved: dict[str, int] = {}
        self.stalls: dict[str, Stall] = {}
        self.step_timers: list[int] = []
        self.ending: Call | None = None
        self._actions = Actions(host, self)
        self.liveness = Liveness(host, self)

    # -- asking the policy ----------------------------------------------------------------------------

    def ask(self, trigger: Trigger, call: Call | None = None) -> None:
        """Ask ``place`` and carry out the answer."""
        host = self._host
        if host.driver.over:
            return
        subject = None if call is None else self.chain_view(call)
        actions = host.policy.place(host.view, trigger, subject)
        seen = host.decisions.seen() if actions else ""
        for action in actions:
            self._carry_out(action, trigger, "" if call is None else call.id, seen)

    def _carry_out(self, action: api.Action, trigger: Trigger, subject: str, seen: str) -> None:
        """Execute one action, or refuse it with a reason."""
        named = getattr(action, "call", "") or subject
        reason = self._actions.carry_out(action, named)
        host = self._host
        host.decisions.add(f"place:{trigger.name}", named, repr(action), reason or "done", seen=seen)
        if reason:
            host.metrics.count("actions_refused")
            host.reporter.tell(
                Event(EventKind.ACTION_REFUSED, host.now_ps / PS, call=named, action=action, reason=reason)
            )

    def begin_step(self, eventful: bool) -> None:
        """Expire pins; let timers ring; ask ``place(STEP)`` if something happened or the policy changes with time."""
        host = self._host
        now = host.now_ps
        for stall in list(self.stalls.values()):
            if stall.until_ps is not None and stall.until_ps <= now:
                self.end_pin(stall, EventKind.PIN_EXPIRED)
        rings = False
        while self.step_timers and self.step_timers[0] <= host.step_number:
            heappop(self.step_timers)
            rings = True
        if rings:
            host.scheduler.happened()
            eventful = True
            self.ask(Trigger.TIMER)
        if eventful or overrides(host.policy, "next_change"):
            self.ask(Trigger.STEP)

    # -- life of a stall --------------------------------------------------------------------------------

    def call_finished(self, call: Call, now_ps: int) -> None:
        """A call ended and still holds its blocks: STALL, then release what nobody claims."""
        host = self._host
        if host.config.engine.cpu_blocks:
            host.offloading.finished(call)
        following = call.program.following_calls(call.node.id) if self._shows else ()
        if not following and not self._places:
            host.pool.release(call.holding)
            host.tree.release(call.holding.chain)
            return
        awaited = {node.id: None for node in following}
        stall = Stall(host, call, now_ps, awaited)
        self.stalls[call.id] = stall
        if self._places:
            self.ending = call
            self.ask(Trigger.STALL, call)
            self.ending = None
        host.pool.release(call.holding)
        if not awaited and stall.idle:
            self.end_stall(stall)

    def returned(self, run: ProgramRun, node: ToolNode) -> None:
        """A tool ended: RETURN for every stalled call that it followed."""
        name = run.program.program
        for before in node.after:
            stall = self.stalls.get(f"{name}/{before}")
            if stall is not None:
                self.ask(Trigger.RETURN, stall.call)

    def admitted(self, call: Call) -> None:
        """A call starts: the calls it follows need to wait for it no longer."""
        run = call.program
        name = run.program.program
        for finished in run.finished:
            stall = self.stalls.get(f"{name}/{finished}")
            if stall is not None and call.node.id in stall.awaited:
                del stall.awaited[call.node.id]
                if not stall.awaited and stall.transfer is None:
                    self.end_stall(stall)

    def program_ended(self, run: ProgramRun) -> None:
        """Nothing of a program returns any more."""
        name = run.program.program
        for node in run.finished:
            stall = self.stalls.get(f"{name}/{node}")
            if stall is not None:
                stall.awaited.clear()
                if stall.until_ps is None and stall.transfer is None:
                    self.end_stall(stall)

    def close(self) -> None:
        """The run is over: let go of what a policy kept for a time that never came."""
        for stall in list(self.stalls.values()):
            if stall.transfer is not None and stall.transfer.direction == "d2h":
                self._host.cpu.end_store(stall.parts)
            elif stall.transfer is not None:
                self._host.cpu.end_load(stall.parts)
            self.end_stall(stall)

    def end_stall(self, stall: Stall) -> None:
        """Release what a stall holds and forget it."""
        for holding in (stall.source, stall.pin, stall.held):
            self._host.pool.release(holding)
        self.stalls.pop(stall.call.id, None)
        self._host.tree.release(stall.call.holding.chain)

    def end_pin(self, stall: Stall, kind: EventKind) -> None:
        """Release a stall's pin and tell the policy why."""
        host = self._host
        blocks = stall.pin.blocks + stall.held.blocks
        host.pool.release(stall.held)
        if stall.transfer is None or stall.transfer.direction == "d2h":
            host.pool.release(stall.pin)
        stall.until_ps = None
        host.metrics.count(kind.name.lower())
        host.reporter.tell(Event(kind, host.now_ps / PS, call=stall.call.id, blocks=blocks))
        if not stall.awaited and stall.idle:
            self.end_stall(stall)

    # -- the rest of the host asks -----------------------------------------------------------------------------

    @property
    def pinned_blocks(self) -> int:
        """GPU blocks that stalls hold, each counted once."""
        pins: list[Holding] = []
        for stall in self.stalls.values():
            pins += [h for h in (stall.pin, stall.held, stall.source) if h.blocks]
        if not pins:
            return 0
        holders = [c.holding for c in self._host.scheduler.running]
        holders += [c.holding for c in self._host.scheduler.loading]
        count = 0
        for holding, blocks in self._host.pool.charges(holders + pins):
            if any(holding is pin for pin in pins):
                count += blocks
        return count

    def views(self) -> tuple[ChainView, ...]:
        """Stalled chains, oldest first."""
        return tuple(stall.view for stall in self.stalls.values())

    def chain_view(self, call: Call) -> ChainView:
        """The chain of a call, stalled or not."""
        stall = self.stalls.get(call.id) if self.stalls else None
        if stall is not None:
            return stall.view
        if call.chain_view is None:
            call.chain_view = ChainView(self._host, call)
        return call.chain_view

    def gpu_blocks(self, call: Call) -> int:
        """Leading blocks of a chain that are findable on the GPU."""
        host = self._host
        chain = call.holding.chain
        host.scheduler.decodes.sync_growers(chain)
        return host.pool.match(chain, chain.blocks).blocks

    def cpu_blocks(self, call: Call) -> int:
        """Leading blocks of a chain that the CPU tier has, or that are on their way there."""
        chain = call.holding.chain
        return self._host.cpu.match(chain, 0, chain.blocks)[0]
