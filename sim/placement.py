"""Carries out what a policy decides about KV, and keeps a host alive.

Every action is checked here first: an illegal one changes nothing and comes back to the policy as
``ACTION_REFUSED`` with the reason. A finished call whose next calls have not all been admitted is a
:class:`Stall`; its pin, its transfer and the blocks held for its return belong to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tokencake.policies import api
from tokencake.policies.api import Event, EventKind, Trigger, overrides
from tokencake.sim.calls import Call, ProgramRun, Status
from tokencake.sim.clock import Alarm, Priority
from tokencake.sim.config import PS, to_ps
from tokencake.sim.cpu import Parts
from tokencake.sim.kv import Holding
from tokencake.sim.link import Transfer
from tokencake.sim.offload import Offloading, count_blocks
from tokencake.sim.view import ChainView

if TYPE_CHECKING:
    from tokencake.sim.host import Host
    from tokencake.sim.step import Step
    from tokencake.traces.schema import ToolNode


class Stall:
    """KV of a finished call between its end and the admission of the calls that follow it.

    Attributes:
        call: The finished call.
        since_ps: When it finished.
        awaited: Nodes of the following calls not admitted yet.
        pin: GPU blocks kept (KEEP, or a PREFETCH and its target blocks).
        until_ps: When the pin ends by itself; None: with the return.
        held: GPU blocks set aside for a coming PREFETCH.
        source: GPU blocks that an OFFLOAD reads.
        transfer: The OFFLOAD or PREFETCH under way.
        parts: CPU blocks of the transfer.
    """

    __slots__ = ("awaited", "call", "held", "parts", "pin", "since_ps", "source", "transfer", "until_ps", "view")

    def __init__(self, host: Host, call: Call, since_ps: int, awaited: dict[str, None]):
        self.call = call
        self.since_ps = since_ps
        self.awaited = awaited
        chain = call.holding.chain
        self.pin = Holding(chain, call)
        self.held = Holding(chain, call)
        self.source = Holding(chain, call)
        self.until_ps: int | None = None
        self.transfer: Transfer | None = None
        self.parts: Parts = []
        self.view = ChainView(host, call, self)

    @property
    def pinned_blocks(self) -> int:
        """GPU blocks that this stall holds in any way."""
        return self.pin.blocks + self.held.blocks + self.source.blocks

    @property
    def idle(self) -> bool:
        """Whether it holds nothing and moves nothing."""
        return self.transfer is None and not self.pinned_blocks


class Placement:
    """Executes actions, keeps pins, reservations and the liveness rules.

    Attributes:
        pinned_blocks: GPU blocks held by stalls.
        reserved: GPU blocks reserved per agent type.
        stalls: Stalled calls by id, oldest first.
    """

    def __init__(self, host: Host):
        self._host = host
        self._places = overrides(host.policy, "place")
        self.offloading = Offloading(host)
        self.reserved: dict[str, int] = {}
        self.stalls: dict[str, Stall] = {}
        self._actors: dict[type, Callable[[api.Action, str], str]] = {
            api.Release: self._unpin,
            api.Unpin: self._unpin,
            api.Keep: self._keep,
            api.Drop: self._drop,
            api.Offload: self._offload,
            api.Prefetch: self._prefetch,
            api.Hold: self._hold,
            api.Cancel: self._cancel,
            api.Preempt: self._preempt,
            api.Park: self._park,
            api.Unpark: self._park,
            api.Reserve: self._reserve,
            api.Timer: self._timer,
        }
        self._ending: Call | None = None
        self._relieved_at = (-1, 0)
        stores = host.policy.store_when if overrides(host.policy, "store") else ()
        self._stores_finished = "finished" in stores and host.config.engine.cpu_blocks > 0

    # -- asking the policy ----------------------------------------------------------------------------

    def ask(self, trigger: Trigger, call: Call | None = None) -> None:
        """Ask ``place`` and carry out the answer."""
        host = self._host
        if host.driver.over:
            return
        subject = None if call is None else self.chain_view(call)
        for action in host.policy.place(host.view, trigger, subject):
            self.carry_out(action, trigger, "" if call is None else call.id)

    def carry_out(self, action: api.Action, trigger: Trigger, subject: str) -> None:
        """Execute one action, or refuse it with a reason."""
        named = getattr(action, "call", "") or subject
        actor = self._actors.get(type(action))
        reason = actor(action, named) if actor is not None else f"{action!r} is not an action"
        host = self._host
        if host.config.log_decisions:
            host.metrics.decisions.add(
                host.now_ps / PS,
                host.step_number,
                f"place:{trigger.name}",
                named,
                repr(action),
                reason or "done",
            )
        if reason:
            host.metrics.count("actions_refused")
            host.tell(Event(EventKind.ACTION_REFUSED, host.now_ps / PS, call=named, action=action, reason=reason))

    def begin_step(self, eventful: bool) -> None:
        """Expire pins; ask ``place(STEP)`` if something happened or the policy changes with time."""
        host = self._host
        now = host.now_ps
        for stall in list(self.stalls.values()):
            if stall.until_ps is not None and stall.until_ps <= now:
                self._end_pin(stall, EventKind.PIN_EXPIRED)
        if eventful or overrides(host.policy, "next_change"):
            self.ask(Trigger.STEP)

    # -- life of a stall --------------------------------------------------------------------------------

    def call_finished(self, call: Call, now_ps: int) -> None:
        """A call ended and still holds its blocks: STALL, then release what nobody claims."""
        host = self._host
        if host.config.engine.cpu_blocks:
            if self._stores_finished and host.scheduler.inflight:
                self.offloading.computed(host.scheduler.inflight[0], call, "finished")
            self.offloading.finished(call)
        if not self._places:
            self._release_call(call)
            return
        awaited = {node.id: None for node in call.program.following_calls(call.node.id)}
        stall = Stall(host, call, now_ps, awaited)
        self.stalls[call.id] = stall
        host.view.call(call)
        self._ending = call
        self.ask(Trigger.STALL, call)
        self._ending = None
        host.pool.release(call.holding)
        if not awaited and stall.idle:
            self._end_stall(stall)

    def _release_call(self, call: Call) -> None:
        self._host.pool.release(call.holding)
        self._host.tree.release(call.holding.chain)

    def returned(self, run: ProgramRun, node: ToolNode) -> None:
        """A tool ended: RETURN for every stalled call that it followed."""
        name = run.program.program
        for before in node.after:
            stall = self.stalls.get(f"{name}/{before}")
            if stall is not None:
                self.ask(Trigger.RETURN, stall.call)

    def admitted(self, call: Call) -> None:
        """A call starts: the calls it follows need to wait for it no longer."""
        host = self._host
        host.metrics.admitted(call)
        if not self.stalls:
            return
        run = call.program
        name = run.program.program
        for finished in run.finished:
            stall = self.stalls.get(f"{name}/{finished}")
            if stall is not None and call.node.id in stall.awaited:
                del stall.awaited[call.node.id]
                if not stall.awaited and stall.transfer is None:
                    self._end_stall(stall)

    def program_ended(self, run: ProgramRun) -> None:
        """Nothing of a program returns any more."""
        name = run.program.program
        for node in run.finished:
            stall = self.stalls.get(f"{name}/{node}")
            if stall is not None:
                stall.awaited.clear()
                if stall.until_ps is None and stall.transfer is None:
                    self._end_stall(stall)

    def _end_stall(self, stall: Stall) -> None:
        for holding in (stall.source, stall.pin, stall.held):
            self._host.pool.release(holding)
        self.stalls.pop(stall.call.id, None)
        self._host.tree.release(stall.call.holding.chain)

    def _end_pin(self, stall: Stall, kind: EventKind) -> None:
        host = self._host
        blocks = stall.pin.blocks + stall.held.blocks
        host.pool.release(stall.held)
        if stall.transfer is None or stall.transfer.direction == "d2h":
            host.pool.release(stall.pin)
        stall.until_ps = None
        host.metrics.count(kind.name.lower())
        host.tell(Event(kind, host.now_ps / PS, call=stall.call.id, blocks=blocks))
        if not stall.awaited and stall.idle:
            self._end_stall(stall)

    # -- actions: each returns the reason for a refusal, or "" -----------------------------------------------

    def _stall_of(self, call_id: str) -> Stall | None:
        return self.stalls.get(call_id)

    def _unpin(self, action: api.Action, call_id: str) -> str:
        stall = self._stall_of(call_id)
        if stall is None:
            return "" if isinstance(action, api.Release) else "the call is not stalled"
        if stall.transfer is not None:
            return "a transfer is under way; CANCEL it first"
        self._host.pool.release(stall.pin)
        self._host.pool.release(stall.held)
        stall.until_ps = None
        if not stall.awaited and stall.call is not self._ending:
            self._end_stall(stall)
        return ""

    def _keep(self, action: api.Action, call_id: str) -> str:
        assert isinstance(action, api.Keep)
        stall = self._stall_of(call_id)
        if stall is None:
            return "the call is not stalled"
        if stall.transfer is not None:
            return "a transfer is under way"
        host = self._host
        until = None if action.until_s is None else to_ps(action.until_s)
        if until is not None and until <= host.now_ps:
            return "the time to keep until has passed"
        if until is None and not stall.awaited:
            return "nothing returns for this chain; a time is needed"
        if not stall.pin.blocks:
            self._claim(stall, stall.pin, action.blocks)
        stall.until_ps = until
        if until is not None:
            Alarm(host.env, until - host.now_ps, Priority.TIMER, host.notice, _nothing)
        return "" if stall.pin.blocks else "no block of the chain is on the GPU"

    def _claim(self, stall: Stall, holding: Holding, blocks: int | None) -> None:
        """Reference the leading blocks of a chain: the ending call's own, or what is findable."""
        pool = self._host.pool
        limit = stall.view.blocks if blocks is None else min(blocks, stall.view.blocks)
        if stall.call is self._ending and stall.call.holding.blocks:
            pool.truncate(stall.call.holding, limit)
            pool.hand_over(stall.call.holding, holding)
            return
        self._host.scheduler.decodes.sync_growers(holding.chain)
        pool.acquire(holding, pool.match(holding.chain, limit))

    def _drop(self, action: api.Action, call_id: str) -> str:
        stall = self._stall_of(call_id)
        if stall is None:
            return "the call is not stalled"
        if stall.transfer is not None:
            return "a transfer is under way"
        pool = self._host.pool
        for holding in (stall.call.holding, stall.pin, stall.held):
            pool.release(holding)
        pool.forget(stall.call.holding.chain, 0)
        return ""

    def _offload(self, action: api.Action, call_id: str) -> str:
        assert isinstance(action, api.Offload)
        host = self._host
        stall = self._stall_of(call_id)
        if stall is None:
            return "the call is not stalled"
        if not host.config.engine.cpu_blocks:
            return "there is no CPU tier"
        if stall.transfer is not None:
            return "a transfer is under way"
        chain = stall.call.holding.chain
        wanted = stall.view.blocks if action.blocks is None else min(action.blocks, stall.view.blocks)
        present = stall.view.blocks if stall.call is self._ending else self.gpu_blocks(stall.call)
        limit = max(stall.pin.hashed, min(wanted, present))
        if limit <= 0:
            return "no block of the chain is on the GPU"
        limit = min(limit, wanted)
        parts = host.cpu.begin_store(chain, 0, limit, stall.call)
        if parts is None:
            return "the CPU tier has no room"
        host.cpu.touch(chain, 0, limit)
        if not parts:
            host.pool.release(stall.pin)
            stall.until_ps = None
            return ""
        if stall.pin.blocks:
            host.pool.truncate(stall.pin, limit)
            host.pool.hand_over(stall.pin, stall.source)
            stall.until_ps = None
        else:
            self._claim(stall, stall.source, limit)
        stall.parts = parts
        self._move(stall, "d2h", "offload", self._offloaded)
        return ""

    def _prefetch(self, action: api.Action, call_id: str) -> str:
        assert isinstance(action, api.Prefetch)
        host = self._host
        stall = self._stall_of(call_id)
        if stall is None:
            return "the call is not stalled"
        if stall.transfer is not None:
            return "a transfer is under way"
        if not stall.awaited:
            return "nothing returns for this chain"
        if stall.pin.blocks:
            return "the chain is kept on the GPU already"
        chain = stall.call.holding.chain
        limit = stall.view.blocks if action.blocks is None else min(action.blocks, stall.view.blocks)
        host.scheduler.decodes.sync_growers(chain)
        match = host.pool.match(chain, limit)
        found, pending = host.cpu.match(chain, match.blocks, limit)
        if pending:
            return "the CPU copy is still being written"
        if not found:
            return "the CPU tier has nothing more of the chain"
        if host.cpu.being_read(chain, match.blocks, match.blocks + found):
            return "the blocks are being loaded already"
        extra = max(0, found - stall.held.private)
        if extra + match.free > host.pool.free:
            return f"{extra + match.free} blocks are needed, {host.pool.free} are free"
        if match.blocks:
            host.pool.acquire(stall.pin, match)
        if extra:
            host.pool.take(stall.held, extra)
        host.pool.move(stall.held, stall.pin, found)
        host.pool.release(stall.held)
        stall.parts = host.cpu.begin_load(chain, match.blocks, match.blocks + found)
        self._move(stall, "h2d", "prefetch", self._prefetched)
        return ""

    def _hold(self, action: api.Action, call_id: str) -> str:
        assert isinstance(action, api.Hold)
        stall = self._stall_of(call_id)
        if stall is None:
            return "the call is not stalled"
        if stall.transfer is not None and stall.transfer.direction == "h2d":
            return "a prefetch is under way"
        if not stall.awaited:
            return "nothing returns for this chain"
        missing = action.blocks - stall.held.private
        if missing <= 0:
            return "that many blocks are held already"
        if missing > self._host.pool.free:
            return f"{missing} blocks are needed, {self._host.pool.free} are free"
        self._host.pool.take(stall.held, missing)
        return ""

    def _cancel(self, action: api.Action, call_id: str) -> str:
        stall = self._stall_of(call_id)
        if stall is None or stall.transfer is None:
            return "no transfer of this chain is under way"
        transfer = stall.transfer
        self._host.link.collect()
        if transfer.state != "moving":
            return "the transfer has just ended"
        self._host.link.cancel(transfer)
        self._host.metrics.transfer(transfer, stall.call, count_blocks(stall.parts))
        if transfer.direction == "d2h":
            self._host.cpu.end_store(stall.parts, success=False)
        else:
            self._host.cpu.end_load(stall.parts)
        self._transfer_over(stall)
        self._host.pool.release(stall.source)
        if transfer.direction == "h2d":
            self._host.pool.release(stall.pin)
        if not stall.awaited and stall.call is not self._ending:
            self._end_stall(stall)
        return ""

    def _preempt(self, action: api.Action, call_id: str) -> str:
        call = self._host.live.get(call_id)
        if call is None or call.status is not Status.RUNNING:
            return "the call is not running"
        self._host.scheduler.preempt(call)
        return ""

    def _park(self, action: api.Action, call_id: str) -> str:
        assert isinstance(action, api.Park | api.Unpark)
        run = self._host.driver.programs.get(action.program)
        if run is None:
            return "no such program is under way"
        run.parked = isinstance(action, api.Park)
        return ""

    def _reserve(self, action: api.Action, call_id: str) -> str:
        assert isinstance(action, api.Reserve)
        if any(blocks < 0 for blocks in action.blocks.values()):
            return "a reservation is negative"
        if sum(action.blocks.values()) > self._host.pool.capacity:
            return "the reservations exceed the GPU tier"
        self.reserved = {name: blocks for name, blocks in action.blocks.items() if blocks}
        return ""

    def _timer(self, action: api.Action, call_id: str) -> str:
        assert isinstance(action, api.Timer)
        host = self._host
        at = to_ps(action.at_s)
        if at <= host.now_ps:
            return "the time has passed"
        Alarm(host.env, at - host.now_ps, Priority.TIMER, host.notice, lambda: self.ask(Trigger.TIMER))
        return ""

    # -- transfers of stalls ----------------------------------------------------------------------------

    def _move(self, stall: Stall, way: str, cause: str, done: Callable[[Stall], None]) -> None:
        host = self._host
        size = count_blocks(stall.parts) * host.config.block_bytes

        def arrived(transfer: Transfer) -> None:
            host.metrics.transfer(transfer, stall.call, count_blocks(stall.parts))
            host.notice(lambda: done(stall))

        stall.transfer = Transfer(way, size, len(stall.parts), cause, stall, arrived)  # type: ignore[arg-type]
        host.link.start(stall.transfer)

    def _offloaded(self, stall: Stall) -> None:
        self._host.cpu.end_store(stall.parts)
        self._host.pool.release(stall.source)
        self._report_done(stall)

    def _prefetched(self, stall: Stall) -> None:
        self._host.pool.grow(stall.pin, stall.pin.blocks)
        self._host.cpu.end_load(stall.parts)
        self._report_done(stall)

    def _report_done(self, stall: Stall) -> None:
        host = self._host
        assert stall.transfer is not None
        way, blocks = stall.transfer.direction, count_blocks(stall.parts)
        self._transfer_over(stall)
        host.tell(
            Event(
                EventKind.TRANSFER_DONE,
                host.now_ps / PS,
                call=stall.call.id,
                reason=way,
                blocks=blocks,
            )
        )
        if not stall.awaited and self.stalls.get(stall.call.id) is stall:
            self._end_stall(stall)

    def _transfer_over(self, stall: Stall) -> None:
        stall.transfer = None
        stall.parts = []

    # -- reservations and liveness --------------------------------------------------------------------------

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
        for stall in self.stalls.values():
            holders += [stall.pin, stall.held, stall.source]
        charged: dict[str, int] = {}
        for holding, blocks in host.pool.charges(holders):
            name = holding.owner.node.agent_type  # type: ignore[attr-defined]
            charged[name] = charged.get(name, 0) + blocks
        reserved = self.reserved
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
        if any(stall.transfer is not None for stall in self.stalls.values()):
            return
        now = host.now_ps
        rung = self._relieved_at[1] + 1 if self._relieved_at[0] == now else 0
        self._relieved_at = (now, rung)
        if rung == 0 and self._places:
            self.ask(Trigger.PRESSURE)
            host.plan_again()
            return
        starving = any(not call.program.parked for call in scheduler.waiting) or scheduler.loading
        if starving and self.reserved:
            self.reserved = {}
            host.metrics.count("reserves_lifted")
            host.tell(Event(EventKind.RESERVES_LIFTED, now / PS))
            host.plan_again()
            return
        pins = [s for s in self.stalls.values() if s.pin.blocks or s.held.blocks]
        if starving and pins:
            self._end_pin(max(pins, key=self._return_ps), EventKind.PIN_LIFTED)
            host.plan_again()
            return
        if host.env.peek() == float("inf"):
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

    # -- the rest of the host asks -----------------------------------------------------------------------------

    @property
    def pinned_blocks(self) -> int:
        """GPU blocks that stalls hold, each counted once."""
        holders = [c.holding for c in self._host.scheduler.running]
        holders += [c.holding for c in self._host.scheduler.loading]
        count = 0
        pins: list[Holding] = []
        for stall in self.stalls.values():
            pins += [h for h in (stall.pin, stall.held, stall.source) if h.blocks]
        if not pins:
            return 0
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
        if call.chain is None:
            call.chain = ChainView(self._host, call)
        return call.chain

    def gpu_blocks(self, call: Call) -> int:
        """Leading blocks of a chain that are findable on the GPU."""
        host = self._host
        chain = call.holding.chain
        host.scheduler.decodes.sync_growers(chain)
        return host.pool.match(chain, chain.blocks).blocks

    def cpu_blocks(self, call: Call) -> int:
        """Leading blocks of a chain that are findable in the CPU tier."""
        chain = call.holding.chain
        return self._host.cpu.match(chain, 0, chain.blocks)[0]

    def computed(self, step: Step, call: Call, cause: str) -> None:
        self.offloading.computed(step, call, cause)

    def find_cpu(self, call: Call, gpu_hit: int) -> int | None:
        return self.offloading.find(call, gpu_hit)

    def load(self, call: Call, gpu_hit: int, blocks: int) -> None:
        self.offloading.load(call, gpu_hit, blocks)

    def reused(self, job: object) -> None:
        self.offloading.reused(job)

    def step_ended(self, step: Step) -> None:
        self.offloading.step_ended(step)

    def awaits(self, step: Step) -> bool:
        return self.offloading.awaits(step)

    @property
    def exposed(self) -> bool:
        """Whether a store reads blocks that the next allocation might take."""
        return self.offloading.exposed

    def step_starts(self, step: Step, start_ps: int) -> int:
        return self.offloading.step_starts(start_ps)

    def preempted(self, call: Call) -> None:
        if call.stores:
            self.offloading.preempted(call)


def _nothing() -> None:
    """Wake the host; the step that begins does the rest."""
