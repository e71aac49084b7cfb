"""TokenCake as its paper describes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from tokencake.policies.api import (
    Action,
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
from tokencake.policies.tokencake_metadata import metadata
from tokencake.policies.tokencake_prediction import Prediction
from tokencake.policies.tokencake_spatial import Spatial, SpatialRule
from tokencake.policies.tokencake_temporal import Temporal, TemporalRule
from tokencake.policies.tokencake_types import PartitionRule
from tokencake.policies.tokencake_utility import PreservationRule


class Tokencake(Policy):
    """TokenCake (paper): KV of stalled agents leaves the GPU while their tools run, and returns in time.

    **Temporal Scheduler.** A call that a tool follows is a stalled request and holds its KV
    (``hold=keep``). When the tool starts, its duration is predicted (eq. 1),

        ``t = alpha * predict_time + (1 - alpha) * history``

    (either alone without the other; before both, the mean ``predict_time`` of that function in the graphs seen so far)
    and a gate (Algorithm 1) asks whether to copy the KV out: only if the tool outlasts both copies, some waiting
    call could use the freed blocks within the rest, and the utility of that (see ``tokencake-upstream``)
    reaches a threshold. GPU blocks for the way back are set aside bit by bit in the steps before
    ``t - T_upload - buffer_s``, so that the KV is resident when the tool ends.

    **Spatial Scheduler.** Waiting calls go by priority (eq. 3 and 4),

        ``w_static * depth * out_degree + time_wait * log(tokens / time_wait)``

    and memory is divided in two phases (Algorithm 2): the reserved part follows two watermarks, and the critical
    types share it by score and by use. A call draws on its type's reserve and on what is shared; one that resumes
    on resident KV is runnable at once and no reserve keeps it out. Victims are calls of uncritical types first.

    **Coordination.** Blocks that copies on their way back still lack are a debt that admissions must leave. Kept
    KV of uncritical types is given up, latest return first, before running calls run out of blocks.

    Sources: arXiv 2510.18586 (v2: eq. 1, 3, 4, Algorithms 1 and 2), as far as public extracts go; constants that
    the paper does not publish are those of the authors' 2026 port where it has them.

    Assumed:
        ``alpha``, ``ewma_alpha``, the utility and its constants, the partition's watermarks, step, bounds, period
        and critical ratio, and ``reserve_fraction`` are the port's. ``buffer_s`` and ``slices`` are those of
        an independent implementation. ``w_static`` is 1: eq. 3 without a scale of its own. Eq. 4 is taken
        as published: it rises with the wait only up to ``tokens / e`` seconds (faster the longer the request), falls
        after that, and is below 0 once a call has waited more seconds than it has tokens. A type's score is
        the highest priority among its live calls, and the last one it had. Priorities are renewed when
        something happens, not in every step. Depth and degrees are the application's labels, or the graph's.
        CPU blocks are buffered, so allocating them costs nothing; ``cpu_buffering=false`` makes each offload
        wait for the allocator, a millisecond a block (from "near a second" for about a thousand).

    Not expressed:
        The stages inside a function call: hosts report its start and its end. Preempting a stalled call for
        a running one within a step: kept KV is given up at the step before.

    Cost:
        With 100 calls waiting, 100 running and 200 stalled, a step in which the gate is asked takes 0.35 ms: what
        waiting calls need is looked up until the freed memory is spent. It is asked when a tool starts; other steps
        take less than 0.1 ms, and so does an order, when something happened.

    Args:
        temporal: Whether the Temporal Scheduler works.
        spatial: Whether the Spatial Scheduler works.
        hold: ``keep``: a stalled call holds its KV until its return; ``release``: it stays findable only.
        gate: Whether the gate is asked; without it every stalled call is copied out.
        prediction: Whether KV is brought back ahead of the return; without it the returning call loads it.
        partition: ``dynamic``, or ``static``: equal shares of a fixed part.
        alpha: Weight of ``predict_time`` against history.
        ewma_alpha: Weight of the newest duration in the history.
        default_tool_s: Duration of a tool of which nothing is known.
        buffer_s: How much earlier than predicted KV is to be back.
        slices: Steps over which blocks for the way back are set aside.
        reserve_fraction: Most of the free blocks that one step sets aside.
        cpu_buffering: Whether freed CPU blocks are kept for the next offload.
        cpu_allocation_s: Seconds to allocate a CPU block without buffering.
        selection: Order in which waiting calls are tried for the freed memory.
        score_threshold: Least utility of an offload.
        min_gpu_usage: Usage below which an offload needs a queue that exceeds memory.
        w_static: Weight of the static priority.
        lend_idle: Whether reserves of types that nobody waits for are open to all.
        critical_ratio: Part of the agent types that get reservations.
        reserve_ratio_min: Least reserved part of memory.
        reserve_ratio_max: Greatest reserved part of memory; the reserved part with ``partition=static``.
        gpu_usage_low: Usage at which the reserved part shrinks.
        gpu_usage_high: Usage at which it grows.
        reserve_adjustment_step: By how much it changes.
        partition_period: Steps between two partitions.
    """

    info = Info.HISTORY
    better_with: ClassVar = {
        "place": (
            "order",
            "KV is kept until its next call starts, which another order may put off",
        )
    }
    together: ClassVar = {"admit": ("place", "it leaves room for the copies that placement is about to start")}

    def __init__(
        self,
        *,
        temporal: bool = True,
        spatial: bool = True,
        hold: Literal["keep", "release"] = "keep",
        gate: bool = True,
        prediction: bool = True,
        partition: Literal["dynamic", "static"] = "dynamic",
        alpha: float = 0.5,
        ewma_alpha: float = 0.5,
        default_tool_s: float = 1.0,
        buffer_s: float = 0.1,
        slices: int = 5,
        reserve_fraction: float = 0.5,
        cpu_buffering: bool = True,
        cpu_allocation_s: float = 0.001,
        selection: Literal["first_fit", "best_fit", "priority_first"] = "first_fit",
        score_threshold: float = 1.0,
        min_gpu_usage: float = 0.60,
        w_static: float = 1.0,
        lend_idle: bool = True,
        critical_ratio: float = 0.75,
        reserve_ratio_min: float = 0.05,
        reserve_ratio_max: float = 0.30,
        gpu_usage_low: float = 0.40,
        gpu_usage_high: float = 0.75,
        reserve_adjustment_step: float = 0.05,
        partition_period: int = 500,
    ) -> None:
        for name, value in (("alpha", alpha), ("ewma_alpha", ewma_alpha)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be >= 0 and <= 1, got {value}")
        if slices < 1 or partition_period < 1:
            raise ValueError(f"slices and partition_period must be >= 1, got {slices} and {partition_period}")
        if not 0 < reserve_fraction <= 1:
            raise ValueError(f"reserve_fraction must be > 0 and <= 1, got {reserve_fraction}")
        rule = PartitionRule(
            reserve_ratio_min,
            reserve_ratio_max,
            gpu_usage_low,
            gpu_usage_high,
            reserve_adjustment_step,
            critical_ratio,
        )
        utility = PreservationRule(
            min_usage=min_gpu_usage,
            high_usage=0.85,
            threshold=score_threshold,
            backoff_steps=0,
            window_blocks=1 << 30,
            max_relief_blocks=0,
            default_stall_s=default_tool_s,
            release_lead_s=0.0,
            ewma_alpha=ewma_alpha,
            bandwidth=0.0,
            base_s=0.0,
            submit_s_per_block=0.0,
            selection=selection,
        )
        allocation = 0.0 if cpu_buffering else cpu_allocation_s
        self._temporal = self.offloads = temporal
        self._spatial = spatial
        self.temporal = Temporal(
            TemporalRule(hold == "keep", gate, prediction, buffer_s, slices, reserve_fraction, allocation, utility),
            Prediction(alpha=alpha, ewma=ewma_alpha, default_s=default_tool_s),
        )
        dynamic = partition == "dynamic"
        self.spatial = Spatial(SpatialRule(w_static, partition_period, dynamic, reserve_ratio_max, lend_idle, rule))

    # -- hooks ------------------------------------------------------------------------------------

    def observe(self, event: Event, view: View) -> None:
        """Follow tools, copies and calls; learn durations."""
        if event.kind is EventKind.PROGRAM_STARTED:
            return
        if self._temporal:
            self.temporal.observe(event, view, self.info)
        self.spatial.observe(event)

    def order(self, view: View, waiting: Sequence[CallView]) -> Sequence[CallView]:
        """Calls that resume on resident KV first; then by hybrid priority."""
        if self._spatial:
            waiting = self.spatial.order(view, waiting)
        if not self._temporal:
            return waiting
        resuming = [call for call in waiting if self.temporal.resumes(call)]
        if not resuming:
            return waiting
        first = {call.id for call in resuming}
        return [*resuming, *(call for call in waiting if call.id not in first)]

    def admit(self, view: View, call: CallView, need: Need) -> Verdict:
        """What fits beside reservations and beside the debt of copies on their way back."""
        debt = self.temporal.debt()
        if self._spatial:
            return self.spatial.admit(view, call, need, debt)
        if debt and view.running and need.full + need.free_hits > view.gpu.free - debt:
            return Verdict.STOP
        return stock_admit(need)

    def victim(self, view: View, need: int, for_call: CallView) -> CallView:
        """Uncritical types first, the lowest priority first."""
        return self.spatial.victim(view) if self._spatial else view.running[-1]

    def place(self, view: View, trigger: Trigger, subject: ChainView | None) -> Sequence[Action]:
        """Keep stalled KV, copy it out where the gate says so, bring it back in time; divide memory."""
        if trigger is Trigger.STEP:
            actions = self.temporal.step(view) if self._temporal else []
            actions += self._headroom(view)
            if not self._spatial:
                return actions
            resuming = self._temporal and any(self.temporal.resumes(call) for call in view.waiting)
            return actions + self.spatial.step(view, resuming=resuming)
        if not self._temporal:
            return ()
        if trigger is Trigger.QUEUED and subject is not None:
            self.temporal.queued(subject.call)
        if trigger is Trigger.STALL and subject is not None:
            return self.temporal.stall(subject, metadata(subject.call, 0.0))
        if trigger is Trigger.RETURN and subject is not None:
            return self.temporal.returned(subject)
        if trigger is Trigger.PRESSURE:
            return self.temporal.relieve((), 1)
        return ()

    def next_change(self, view: View) -> tuple[float | None, int | None] | None:
        """In every step while blocks are set aside; before growth needs kept KV or a call's blocks; at a partition."""
        if self._temporal and self.temporal.reserving:
            return None, view.step + 1
        steps = []
        if self._spatial:
            steps.append(max(view.step + 1, self.spatial.next_partition))
            if self.spatial.floor and view.waiting and view.running:
                steps.append(_grown(view, self.spatial.floor))
        if self._temporal and self.temporal.keeping and view.running:
            steps.append(_grown(view, len(view.running)))
        return (None, min(steps)) if steps else None

    def _headroom(self, view: View) -> list[Action]:
        """Before running calls run out of blocks, stalled ones of uncritical types give up theirs."""
        short = len(view.running) - view.gpu.free
        if short <= 0 or not self._temporal or not self.temporal.keeping:
            return []
        return self.temporal.relieve(tuple(self.spatial.plan.reserved), short)


def _grown(view: View, blocks: int) -> int:
    """Step before which running calls cannot have grown so much that fewer than ``blocks`` are free."""
    rounds = (view.gpu.free - blocks) // len(view.running)
    return view.step + max(1, rounds * view.block_size)
