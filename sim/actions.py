"""What each action of a policy does to KV memory, queues and the link.

Every method checks its action first and returns the reason for a refusal, or an empty string; a
refused action has changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappush
from typing import TYPE_CHECKING

from tokencake.policies import api
from tokencake.policies.api import Event, EventKind, Trigger
from tokencake.sim.calls import Status
from tokencake.sim.clock import Priority
from tokencake.sim.config import PS, wake_ps
from tokencake.sim.extents import Holding
from tokencake.sim.parts import count_blocks, count_runs
from tokencake.sim.stall import Stall
from tokencake.sim.store_job import StoreJob
from tokencake.sim.transfer import Transfer

if TYPE_CHECKING:
    from tokencake.sim.host import Host
    from tokencake.sim.placement import Placement


_COUNTED = (api.Keep, api.Offload, api.Prefetch, api.Hold)
_TAKING = (api.Keep, api.Prefetch, api.Hold, api.Reserve, api.Park)


class Actions:
    """Carries out the actions that a policy's ``place`` returns.

    Args:
        host: The engine acted on.
        placement: Keeps the stalls and the reservation plan.
    """

    def __init__(self, host: Host, placement: Placement):
        self._host = host
        self._placement = placement
        self._timers: set[int] = set()
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

    def carry_out(self, action: api.Action, call_id: str) -> str:
        """Execute an action on a call's chain; returns why not, or an empty string."""
        actor = self._actors.get(type(action))
        if actor is None:
            return f"{action!r} is not an action"
        if isinstance(action, _TAKING) and self._placement.liveness.gives_way:
            return "something was just given up for a call that waits; ask again when a step has run"
        if isinstance(action, _COUNTED) and action.blocks is not None and action.blocks < 1:
            return f"at least one block is needed, not {action.blocks}"
        return actor(action, call_id)

    def _stall_of(self, call_id: str) -> Stall | None:
        return self._placement.stalls.get(call_id)

    def _unpin(self, action: api.Action, call_id: str) -> str:
        stall = self._stall_of(call_id)
        if stall is None:
            return "" if isinstance(action, api.Release) else "the call is not stalled"
        if stall.transfer is not None:
            return "a transfer is under way; CANCEL it first"
        self._host.pool.release(stall.pin)
        self._host.pool.release(stall.held)
        self._let_go(stall)
        return ""

    def _keep(self, action: api.Action, call_id: str) -> str:
        assert isinstance(action, api.Keep)
        stall = self._stall_of(call_id)
        if stall is None:
            return "the call is not stalled"
        if stall.transfer is not None:
            return "a transfer is under way"
        host = self._host
        until = None if action.until_s is None else wake_ps(action.until_s)
        if until is not None and until <= host.now_ps:
            return "the time to keep until has passed"
        if until is None and not stall.awaited:
            return "nothing returns for this chain; a time is needed"
        if not stall.pin.blocks:
            self._claim(stall, stall.pin, action.blocks)
        elif action.blocks is not None and action.blocks < stall.pin.hashed:
            host.pool.truncate(stall.pin, action.blocks)
        if not stall.pin.blocks:
            return "no block of the chain is on the GPU"
        stall.until_ps = until
        if until is not None:
            host.clock.at(until, Priority.TIMER, self._placement.liveness.wake, _nothing)
        return ""

    def _claim(self, stall: Stall, holding: Holding, blocks: int | None) -> None:
        """Reference the leading blocks of a chain: the ending call's own, or what is findable."""
        pool = self._host.pool
        limit = stall.view.blocks if blocks is None else min(blocks, stall.view.blocks)
        if stall.call is self._placement.ending and stall.call.holding.blocks:
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
        self._let_go(stall)
        return ""

    def _let_go(self, stall: Stall) -> None:
        """A stall holds nothing any more; without a return to wait for, it is over."""
        stall.until_ps = None
        if not stall.awaited and stall.call is not self._placement.ending:
            self._placement.end_stall(stall)

    def _offload(self, action: api.Action, call_id: str) -> str:
        assert isinstance(action, api.Offload)
        host = self._host
        stall = self._stall_of(call_id)
        if stall is None:
            return "the call is not stalled"
        if not host.config.engine.cpu_blocks:
            host.metrics.count("offload_without_tier")
            return "there is no CPU tier"
        if not host.config.engine.prefix_caching:
            return "prefix caching is off, so nothing could be found in the CPU tier"
        if stall.transfer is not None:
            return "a transfer is under way"
        chain = stall.call.holding.chain
        wanted = stall.view.blocks if action.blocks is None else min(action.blocks, stall.view.blocks)
        held = stall.call is self._placement.ending and stall.call.holding.blocks  # no action has let go of it yet
        present = stall.view.blocks if held else self._placement.gpu_blocks(stall.call)
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
            self._let_go(stall)
            return ""
        stall.parts = parts
        if stall.pin.hashed >= limit:
            host.pool.truncate(stall.pin, limit)
            host.pool.hand_over(stall.pin, stall.source)
            stall.until_ps = None
        elif stall.pin.blocks or action.hold or stall.call is self._placement.ending:
            host.pool.release(stall.pin)  # it may be of fewer blocks than are read
            stall.until_ps = None
            self._claim(stall, stall.source, limit)
        else:
            stall.fence = StoreJob(stall.call, 0, limit, parts)
        transfer = self._move(stall, "d2h", "offload", self._offloaded)
        if stall.fence is not None:
            host.offloading.fence(stall.fence, host.pool.match(chain, limit), transfer)
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
        if transfer.state == "done":
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
        if not stall.awaited and stall.call is not self._placement.ending:
            self._placement.end_stall(stall)
        return ""

    def _preempt(self, action: api.Action, call_id: str) -> str:
        call = self._host.live.get(call_id)
        if call is None or call.status is not Status.RUNNING:
            return "the call is not running"
        if call.decoding:
            self._host.scheduler.decodes.sync(call)
        if call.produced == call.output:
            return "the call ends with the step in flight"
        if self._placement.ending is not None:  # vLLM takes the outputs of a step one by one
            return "the outputs of a step are being processed; preempt when the next one is planned"
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
        self._placement.reserved = {name: blocks for name, blocks in action.blocks.items() if blocks}
        return ""

    def _timer(self, action: api.Action, call_id: str) -> str:
        assert isinstance(action, api.Timer)
        host = self._host
        if action.steps is not None:
            if action.steps < 1:
                return f"at least one step is needed, not {action.steps}"
            heappush(self._placement.step_timers, host.step_number + action.steps)
            return ""
        assert action.at_s is not None
        at = wake_ps(action.at_s)
        if at <= host.now_ps:
            return "the time has passed"
        if at not in self._timers:
            self._timers.add(at)
            host.clock.at(at, Priority.TIMER, self._ring, at)
        return ""

    def _ring(self, at_ps: int) -> None:
        self._timers.remove(at_ps)
        self._placement.liveness.wake(lambda: self._placement.ask(Trigger.TIMER))

    # -- transfers ------------------------------------------------------------------------------

    def _move(self, stall: Stall, way: str, cause: str, done: Callable[[Stall], None]) -> Transfer:
        host = self._host
        size = count_blocks(stall.parts) * host.config.block_bytes

        def arrived(transfer: Transfer) -> None:
            host.metrics.transfer(transfer, stall.call, count_blocks(stall.parts))
            host.notice(lambda: done(stall))

        transfer = Transfer(way, size, count_runs(stall.parts), cause, stall, arrived)  # type: ignore[arg-type]
        stall.transfer = transfer
        host.link.start(transfer)
        return transfer

    def _offloaded(self, stall: Stall) -> None:
        self._host.cpu.end_store(stall.parts)
        self._host.pool.release(stall.source)
        self._report_done(stall)

    def _prefetched(self, stall: Stall) -> None:
        self._host.scheduler.decodes.sync_growers(stall.pin.chain)
        self._host.pool.grow(stall.pin, stall.pin.blocks)
        self._host.cpu.end_load(stall.parts)
        self._report_done(stall)

    def _report_done(self, stall: Stall) -> None:
        host = self._host
        assert stall.transfer is not None
        way, blocks = stall.transfer.direction, count_blocks(stall.parts)
        self._transfer_over(stall)
        host.reporter.tell(
            Event(
                EventKind.TRANSFER_DONE,
                host.now_ps / PS,
                call=stall.call.id,
                reason=way,
                blocks=blocks,
            )
        )
        if not stall.awaited and self._placement.stalls.get(stall.call.id) is stall:
            self._placement.end_stall(stall)

    def _transfer_over(self, stall: Stall) -> None:
        if stall.fence is not None:
            self._host.offloading.lift(stall.fence)
            stall.fence = None
        stall.transfer = None
        stall.parts = []


def _nothing() -> None:
    """Wake the host; the step that begins does the rest."""
