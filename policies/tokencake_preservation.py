"""Preservation of TokenCake's 2026 port: which finished generations are copied to the CPU tier, and when.

A finished call's blocks are free but findable until they are overwritten. While its tool runs, the port
weighs copying a prefix of them against its cost; the successor finds the copy by itself, through the
prefix lookup. Nothing is freed by it, and nothing is brought back ahead of time. Facts: the authors'
repository (``offload_policy.py``, ``offloading.py``, ``lifecycle.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tokencake.policies.api import Action, CallView, ChainView, Event, Info, Offload, View
from tokencake.policies.tokencake_admission import Scheduling
from tokencake.policies.tokencake_metadata import Metadata
from tokencake.policies.tokencake_prediction import Prediction, kind_of
from tokencake.policies.tokencake_utility import (
    Candidate,
    Churn,
    PreservationRule,
    Pressure,
    TransferCost,
    longest,
    rejection,
)

ATTACH_S = 60.0
"""A tool must start this soon after its call ended."""


@dataclass(slots=True)
class Lifecycle:
    """One finished generation while its tools run.

    Attributes:
        finished_s: When the call ended.
        running: Its tools under way.
        expected_s: When the last of them is expected to end; None before the first one starts.
        expires_s: When it is given up whatever its tools do.
        settled: It was copied, or has lapsed; it is not looked at again.
        retry_step: Not looked at before this step, unless the pressure signature changes.
    """

    chain: ChainView
    meta: Metadata
    finished_s: float
    running: dict[str, float] = field(default_factory=dict)
    expected_s: float | None = None
    expires_s: float = 0.0
    settled: bool = False
    retry_step: int = -1
    signature: tuple[int, ...] = ()


class Preservation:
    """State of preservation; :class:`~tokencake.policies.tokencake_upstream.TokencakeUpstream` asks it.

    Attributes:
        prediction: Expected durations of tools.
        fit_demand: Of the last evaluation; while it is 0 nothing is copied.
    """

    def __init__(self, rule: PreservationRule, scheduling: Scheduling, *, scheduled: bool):
        self.rule = rule
        self.fit_demand = 0
        self._scheduling = scheduling
        self._scheduled = scheduled
        self._cost: TransferCost | None = None
        self._lives: dict[str, Lifecycle] = {}
        self._of_tool: dict[tuple[str, str], Lifecycle] = {}
        self.prediction = Prediction(alpha=0.5, ewma=rule.ewma_alpha, default_s=rule.default_stall_s)
        self._churned = Churn()
        self._scores: dict[str, float] = {}
        self._demands: dict[str, int] = {}

    # -- life cycles ---------------------------------------------------------------------------

    def finished(self, chain: ChainView, meta: Metadata, now: float) -> None:
        """A call ended; remember its chain if it may be preserved and tools follow."""
        tools = chain.next_tools
        if not (tools and meta.offload_eligible and meta.reusable_prefix):
            return
        life = self._lives[chain.call.id] = Lifecycle(chain, meta, now)
        for tool in tools:
            self._of_tool[chain.call.program.id, tool.node] = life

    def tool_started(self, event: Event, view: View, info: Info) -> None:
        """A tool of a finished call starts."""
        life = self._of_tool.get((event.program, event.node))
        if life is None:
            return
        now = event.at
        if now - life.finished_s > ATTACH_S:
            self._end(life)
            return
        life.running[event.node] = now
        predicted = self.prediction.started(event, view, life.chain.call, info)
        life.expected_s = max(life.expected_s or 0.0, now + predicted)
        life.expires_s = max(life.expires_s, now + min(max(4 * predicted, 60.0), 3600.0))

    def tool_finished(self, event: Event) -> None:
        """Learn how long it took; the last tool's end ends the lifecycle."""
        life = self._of_tool.pop((event.program, event.node), None)
        if life is None:
            return
        self.prediction.learn(kind_of(life.chain.call, event.tool), event.elapsed_s or 0.0)
        life.running.pop(event.node, None)
        if not life.running:
            self._end(life)

    def program_finished(self, program: str) -> None:
        """Nothing of a program returns any more."""
        for key in [key for key in self._of_tool if key[0] == program]:
            self._end(self._of_tool[key])

    def _end(self, life: Lifecycle) -> None:
        self._lives.pop(life.chain.call.id, None)
        for key in [key for key, other in self._of_tool.items() if other is life]:
            del self._of_tool[key]

    def copied(self, direction: str, view: View) -> None:
        """A copy ended: from now on its direction's bandwidth is known."""
        cost = self._costs(view)
        if direction == "d2h":
            cost.d2h = view.link.d2h_bytes_per_s
        else:
            cost.h2d = view.link.h2d_bytes_per_s

    # -- evaluation ----------------------------------------------------------------------------------

    def evaluate(self, view: View) -> Sequence[Action]:
        """Copies to start now."""
        now = view.now
        open_lives = [
            life for life in self._lives.values() if not life.settled and life.running and now < life.expires_s
        ]
        if not open_lives:
            self.fit_demand = 0
            return ()
        pressure = self.pressure(view)
        self.fit_demand = pressure.fit_demand
        signature = pressure.signature
        self._scores.clear()
        actions: list[Action] = []
        for life in open_lives:
            if view.step < life.retry_step and signature == life.signature:
                continue
            blocks = self._select(view, life, pressure) if pressure.fit_demand else 0
            if blocks:
                life.settled = True
                actions.append(Offload(blocks, life.chain.call.id, hold=False))
            else:
                life.retry_step, life.signature = view.step + self.rule.backoff_steps, signature
        return actions

    def _select(self, view: View, life: Lifecycle, pressure: Pressure) -> int:
        """Leading blocks of a chain to copy; 0: leave it."""
        assert life.expected_s is not None
        cost = self._costs(view)
        chain, remaining = life.chain, life.expected_s - view.now
        present = chain.cpu_blocks
        limit = max(present, chain.gpu_blocks)
        if self.rule.max_relief_blocks:
            blocks = min(limit, present + self.rule.max_relief_blocks)
        else:
            blocks = longest(limit, present, remaining, cost, pressure.cpu_free)
        if blocks <= 0:
            return 0
        new = max(0, blocks - present)
        candidate = Candidate(
            blocks=blocks,
            new_blocks=new,
            remaining_s=remaining,
            transfer_s=cost.both(new, blocks),
            importance=self._importance(view, life),
            near=life.meta.near,
            churn=self._churned.at(view.step),
            fits_cpu=new <= pressure.cpu_free,
        )
        if rejection(candidate, pressure, self.rule):
            return 0
        lead = max(self.rule.release_lead_s, 1.25 * cost.seconds(blocks, cost.h2d))
        if view.now >= life.expected_s - lead:
            return 0  # references would be dropped at once
        if new:
            self._churned.copied(view.step)
        return blocks

    def _importance(self, view: View, life: Lifecycle) -> float:
        importance = life.meta.importance
        if self._scheduled:
            name = life.chain.call.agent_type
            if name not in self._scores:
                self._scores[name] = self._scheduling.type_score(view, name)
            importance = max(importance, min(10.0, self._scores[name] / 2))
        return min(10.0, importance)

    def _costs(self, view: View) -> TransferCost:
        if self._cost is None:
            one, two = (view.cost.transfer_time(n, "d2h") for n in (1, 2))
            self._cost = TransferCost(self.rule, (two - one) * view.link.d2h_bytes_per_s)
        return self._cost

    # -- pressure ------------------------------------------------------------------------------------

    def pressure(self, view: View) -> Pressure:
        """Memory, and who waits for it."""
        free, ledger = view.gpu.free, self._scheduling.ledger
        uncommitted = self._scheduling.calls.uncommitted(view) if self._scheduled else free
        demand = critical = 0
        waiting = [*view.waiting, *view.loading]
        for call in waiting:
            blocks = self._demand(call, view.block_size)
            demand += blocks
            critical += blocks if call.agent_type in ledger.plan.reserved else 0
        return Pressure(
            usage=1 - free / view.gpu.capacity,
            free=free,
            waiting=len(waiting),
            waiting_demand=demand,
            critical_demand=critical,
            shared_available=ledger.available(uncommitted).shared if self._scheduled else free,
            fit_demand=self._fit_demand(view, free, uncommitted),
            cpu_free=view.cpu.free,
        )

    def _demand(self, call: CallView, size: int) -> int:
        """Blocks that a call lacks until all its known tokens are computed."""
        known = self._demands.get(call.id)
        if known is None:
            known = self._demands[call.id] = -(-(_tokens(call) - call.computed_tokens) // size)
        return known

    def changed(self, call: str) -> None:
        """A call was admitted or preempted, or ended."""
        self._demands.pop(call, None)

    def _fit_demand(self, view: View, free: int, uncommitted: int) -> int:
        """Blocks of the waiting calls that could be admitted right now, up to the window.

        In vLLM a call that was admitted to load its prefix waits until it has it; it may always go on.
        Reservations do not appear: what is uncommitted can be borrowed in the same step.
        """
        window, size = self.rule.window_blocks, view.block_size
        slots = view.max_running - len(view.running)
        fit = sum(max(0, -(-_tokens(call) // size) - call.gpu_blocks) for call in view.loading)
        for call in self._candidates(view):
            if fit >= window or slots <= 0 or free <= 0:
                break
            need = view.need(call)
            if need is None:
                continue
            blocks = demand = need.full + need.free_hits
            if blocks > free:
                continue
            if self._scheduled:
                demand = self._scheduling.calls.demand(view, self._scheduling.calls.track(call), need)
            if demand > uncommitted:
                continue
            fit += blocks
            free -= blocks
            uncommitted -= demand
            slots -= 1
        return min(window, fit)

    def _candidates(self, view: View) -> Sequence[CallView]:
        if not self._scheduled:
            return view.waiting
        hopeful = self._scheduling.hopeful(view)
        if self.rule.selection == "first_fit":
            return hopeful
        track = self._scheduling.calls.track
        if self.rule.selection == "priority_first":
            return sorted(hopeful, key=lambda call: (-track(call).effective, call.id))

        def distance(call: CallView) -> tuple[int, str]:
            need = view.need(call)
            return (abs(self.rule.window_blocks - need.full - need.free_hits) if need else 1 << 40), call.id

        return sorted(hopeful, key=distance)


def _tokens(call: CallView) -> int:
    return call.prompt_tokens + call.output_tokens
