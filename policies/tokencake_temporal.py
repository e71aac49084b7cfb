"""TokenCake's Temporal Scheduler: KV of calls whose tool runs, on its way out of GPU memory and back.

A stalled call's chain goes through the phases of :mod:`~tokencake.policies.tokencake_stalled`. The gate
(:mod:`~tokencake.policies.tokencake_gate`) is asked once, when the tool starts; the copy back starts by the
predicted end of the tool, after its GPU blocks were reserved bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokencake.policies.api import (
    Action,
    CallView,
    ChainView,
    Event,
    EventKind,
    Hold,
    Info,
    Keep,
    Offload,
    Prefetch,
    Timer,
    Unpin,
    View,
)
from tokencake.policies.returns import Returns
from tokencake.policies.tokencake_gate import Gate
from tokencake.policies.tokencake_metadata import Metadata
from tokencake.policies.tokencake_prediction import Prediction, kind_of
from tokencake.policies.tokencake_stalled import Phase, Stalled, continues
from tokencake.policies.tokencake_utility import PreservationRule, Pressure


@dataclass(frozen=True, slots=True)
class TemporalRule:
    """Constants of the Temporal Scheduler; see the parameters of ``tokencake``."""

    keep: bool
    gate: bool
    predictive: bool
    buffer_s: float
    slices: int
    fraction: float
    allocation_s_per_block: float
    utility: PreservationRule


class Temporal:
    """State of the Temporal Scheduler.

    Attributes:
        prediction: Expected durations of tools.
        offloads: Chains that the gate sent out, for reports.
    """

    def __init__(self, rule: TemporalRule, prediction: Prediction):
        self.rule = rule
        self.prediction = prediction
        self.offloads = 0
        self._returns = Returns()
        self._stalled: dict[str, Stalled] = {}
        self._of_tool: dict[tuple[str, str], Stalled] = {}
        self._analysed: dict[str, None] = {}
        self._gate = Gate(rule.utility, keep=rule.keep)

    # -- what happens -----------------------------------------------------------------------------

    def observe(self, event: Event, view: View, info: Info) -> None:
        """Follow tools, transfers, pins and returns."""
        kind = event.kind
        if kind is EventKind.TOOL_STARTED:
            self._started(event, view, info)
        elif kind is EventKind.TOOL_FINISHED:
            self._finished(event)
        elif kind is EventKind.TRANSFER_DONE:
            self._moved(event)
        elif kind is EventKind.PIN_LIFTED or kind is EventKind.PIN_EXPIRED:
            self._let_go(event.call)
        elif kind is EventKind.ACTION_REFUSED and event.action is not None:
            self._refused(event)
        elif kind is EventKind.PROGRAM_FINISHED:
            self._analysed.pop(event.program, None)
        self._returns.observe(event)
        if kind is EventKind.CALL_ADMITTED or kind is EventKind.PROGRAM_FINISHED:
            for name in [name for name in self._stalled if name not in self._returns]:
                self._let_go(name)

    def queued(self, call: CallView) -> None:
        """Static analysis at a program's first call: its declared estimates start what is known of each tool."""
        program = call.program
        if program.id not in self._analysed:
            self._analysed[program.id] = None
            self.prediction.declare(program)

    def stall(self, chain: ChainView, meta: Metadata) -> Sequence[Action]:
        """A call ended: inference, function call, inference makes it a stalled request that holds its KV."""
        tools = chain.next_tools
        if not continues(chain):
            return ()
        self._returns.add(chain)
        stalled = self._stalled[chain.call.id] = Stalled(chain, meta)
        for tool in tools:
            self._of_tool[chain.call.program.id, tool.node] = stalled
        return (Keep(),) if self.rule.keep else ()

    def _started(self, event: Event, view: View, info: Info) -> None:
        stalled = self._of_tool.get((event.program, event.node))
        if stalled is not None:
            predicted = self.prediction.started(event, view, stalled.chain.call, info)
            stalled.started[event.node] = event.at + predicted

    def _finished(self, event: Event) -> None:
        stalled = self._of_tool.pop((event.program, event.node), None)
        if stalled is None:
            return
        self.prediction.learn(kind_of(stalled.chain.call, event.tool), event.elapsed_s or 0.0)
        stalled.started.pop(event.node, None)

    def _moved(self, event: Event) -> None:
        stalled = self._stalled.get(event.call)
        if stalled is not None:
            stalled.phase = Phase.OFFLOADED if event.reason == "d2h" else Phase.RESIDENT

    def _refused(self, event: Event) -> None:
        stalled = self._stalled.get(event.call)
        if stalled is None:
            return
        if isinstance(event.action, Offload):
            stalled.phase = Phase.STALLED
        elif isinstance(event.action, Prefetch):
            stalled.phase = Phase.RESERVING
        elif isinstance(event.action, Hold):
            stalled.held = 0  # asked again for what is missing

    def _let_go(self, call_id: str) -> None:
        stalled = self._stalled.pop(call_id, None)
        self._returns.remove(call_id)
        if stalled is not None:
            for key in [key for key, other in self._of_tool.items() if other is stalled]:
                del self._of_tool[key]

    # -- decisions ------------------------------------------------------------------------------------

    def step(self, view: View) -> list[Action]:
        """Ask the gate for tools that just started; reserve for, and start, what has to be back soon."""
        actions: list[Action] = []
        pressure: Pressure | None = None
        for stalled in self._stalled.values():
            if not stalled.started:
                continue
            if not stalled.asked:
                stalled.asked = True
                pressure = pressure or self._gate.pressure(view, self.debt())
                actions += self._ask(view, stalled, pressure)
            elif stalled.phase is Phase.ALLOCATING and view.now >= stalled.ready_s:
                actions.append(self._offload(stalled, view))
            elif stalled.phase is Phase.OFFLOADED and self.rule.predictive and not self._sibling_returns(stalled):
                actions += self._due(view, stalled)
            if stalled.phase is Phase.RESERVING:
                actions += self._reserve(view, stalled)
        return actions

    def returned(self, chain: ChainView) -> Sequence[Action]:
        """A tool ended: what is not on its way back is loaded by the call itself, in the blocks set aside."""
        stalled = self._stalled.get(chain.call.id)
        if stalled is None or stalled.started:
            return ()
        if stalled.phase is Phase.ALLOCATING:
            stalled.phase = Phase.STALLED
        if stalled.phase is Phase.RESERVING:
            stalled.phase = Phase.RESIDENT
            if stalled.held:
                return (Unpin(chain.call.id),)
        return ()

    def relieve(self, critical: Sequence[str], most: int) -> list[Action]:
        """Let go of kept KV until ``most`` blocks are free or nothing uncritical is kept: latest return first."""
        kept = [
            s for s in self._stalled.values() if s.phase is Phase.STALLED and s.chain.call.agent_type not in critical
        ]
        kept.sort(key=lambda s: (s.expected_s if s.started else float("inf"), s.chain.call.id), reverse=True)
        actions: list[Action] = []
        for stalled in kept:
            if most <= 0:
                break
            freed = stalled.chain.own_blocks
            if not freed:
                continue
            most -= freed
            actions.append(Unpin(stalled.chain.call.id))
            self._let_go(stalled.chain.call.id)
        return actions

    def resumes(self, call: CallView) -> bool:
        """Whether a waiting call continues a stalled one whose KV is on the GPU: it is runnable, not queued."""
        returns, name = self._returns, call.id
        return returns.awaits(name) and any(chain.pinned_blocks for chain in returns.before(name))

    @property
    def reserving(self) -> bool:
        """Whether blocks are being set aside, which goes on in the next step."""
        return any(stalled.phase is Phase.RESERVING for stalled in self._stalled.values())

    @property
    def keeping(self) -> bool:
        """Whether KV of a stalled call is kept on the GPU."""
        return self.rule.keep and any(stalled.phase is Phase.STALLED for stalled in self._stalled.values())

    def debt(self) -> int:
        """GPU blocks still to be set aside for copies that are about to start."""
        if not self._stalled:
            return 0
        waiting = [s for s in self._stalled.values() if s.phase is Phase.RESERVING]
        return sum(max(0, s.chain.cpu_blocks - s.chain.gpu_blocks - s.held) for s in waiting)

    # -- out ---------------------------------------------------------------------------------------------

    def _ask(self, view: View, stalled: Stalled, pressure: Pressure) -> list[Action]:
        """Send a chain out if the gate says so, as soon as the CPU's allocator has made room."""
        blocks, present = stalled.chain.gpu_blocks, stalled.chain.cpu_blocks
        if not blocks or not view.cpu.capacity:
            return []
        new = max(0, blocks - present)
        waits = self.rule.allocation_s_per_block * new
        if self.rule.gate:
            transfer = waits + view.cost.transfer_time(new, "d2h") + view.cost.transfer_time(blocks, "h2d")
            if not self._gate.opens(view, stalled, transfer, pressure, self.debt()):
                return []
        if waits:
            stalled.phase, stalled.ready_s = Phase.ALLOCATING, view.now + waits
            return [Timer(stalled.ready_s)]
        return [self._offload(stalled, view)]

    def _offload(self, stalled: Stalled, view: View) -> Action:
        whole = stalled.chain.cpu_blocks >= stalled.chain.gpu_blocks  # nothing to copy: it is out at once
        stalled.phase = Phase.OFFLOADED if whole else Phase.OFFLOADING
        self.offloads += 1
        self._gate.passed(view.step)
        return Offload(call=stalled.chain.call.id, hold=self.rule.keep)

    # -- back -----------------------------------------------------------------------------------------------

    def _due(self, view: View, stalled: Stalled) -> list[Action]:
        """Start to reserve when the copy back, and the reservation before it, would end with the tool."""
        if stalled.alarm_s < 0:
            used = (view.gpu.capacity - view.gpu.free) * view.block_size
            step_s = view.cost.step_time(max(1, len(view.running)), used)
            copy_s = view.cost.transfer_time(max(1, stalled.chain.cpu_blocks), "h2d")
            lead = copy_s + self.rule.buffer_s + self.rule.slices * step_s
            stalled.alarm_s = max(0.0, stalled.expected_s - lead)
            if view.now < stalled.alarm_s:
                return [Timer(stalled.alarm_s)]
        if view.now >= stalled.alarm_s:
            stalled.phase = Phase.RESERVING
        return []

    def _sibling_returns(self, stalled: Stalled) -> bool:
        """Whether another chain of the program is on its way back: it brings the prefix that both share."""
        program = stalled.chain.call.program.id
        moving = (Phase.RESERVING, Phase.UPLOADING)
        return any(s.phase in moving and s.chain.call.program.id == program for s in self._stalled.values())

    def _reserve(self, view: View, stalled: Stalled) -> list[Action]:
        """Set one more slice aside; when all is there, copy it back."""
        chain = stalled.chain
        missing = chain.cpu_blocks - chain.gpu_blocks
        if missing <= 0:  # nobody overwrote it
            stalled.phase = Phase.RESIDENT
            return [Unpin(chain.call.id), Keep(call=chain.call.id)] if stalled.held else [Keep(call=chain.call.id)]
        if stalled.held < missing:
            slice_ = min(-(-missing // self.rule.slices), missing - stalled.held)
            allowed = min(slice_, int(self.rule.fraction * view.gpu.free))
            if not allowed:
                return []
            stalled.held += allowed
            hold = Hold(stalled.held, chain.call.id)
            if stalled.held < missing:
                return [hold]
            stalled.phase = Phase.UPLOADING
            return [hold, Prefetch(call=chain.call.id)]
        stalled.phase = Phase.UPLOADING
        return [Prefetch(call=chain.call.id)]
