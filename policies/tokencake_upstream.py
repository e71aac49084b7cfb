"""TokenCake as its authors ported it to vLLM in 2026."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from tokencake.policies.api import (
    Action,
    Budget,
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
from tokencake.policies.tokencake_admission import Scheduling, SchedulingRule
from tokencake.policies.tokencake_preservation import Preservation
from tokencake.policies.tokencake_types import PartitionRule
from tokencake.policies.tokencake_utility import PreservationRule

Mode = Literal["base", "agent", "offload", "agent_offload"]


class TokencakeUpstream(Policy):
    """TokenCake, the authors' 2026 vLLM port: commitments, reservations, and copies of stalled prefixes.

    Two independent halves. *Scheduling* orders waiting calls by a score, commits every admitted call's
    declared growth so that it is never preempted, reserves memory for critical agent types on paper, and
    lets those who are denied be passed over. *Preservation* copies a finished call's prefix to the CPU tier
    while its tool runs, if a waiting call could use memory now and the tool leaves time for both copies; the
    successor finds it there.

    **Score** of a request, the higher the earlier; ``d`` depth, ``r`` remaining depth over ``D = max(d, application
    depth)``, ``e`` seconds since the application arrived, ``w`` seconds since the call did:

        ``trunc(100 importance + 15 d + 45 out + 10 in + 20 similarity + 20 remaining + 120 (1/similarity - 1)``
        ``+ 6 min(offset, 60) + 5 min(e, 300) (1 + 0.75 r) + 8 min(w, 180) (1 + 0.5 r) + 5 min(e, 240) d/D``
        ``+ 180 critical + 90 near completion + 20 in a join + 4 depth + 12 (fanout - 1) - 8 (memory weight - 1))``

    Members of a join group share the greatest score among them.

    **Admission**: a call may take what is free less what all admitted calls still need to reach their limits
    (``commit=all``); then shared memory, its type's reserve and idle reserves must pay for it. Who is denied by
    reservations alone is tried once more after all others and may then borrow any reserve.

    **Utility** of a copy of ``n`` blocks, with ``T`` the seconds of both copies and ``m`` what the tool leaves:

        ``min(6, m / max(0.25, T)) + 6 max(0, usage - 0.6) + min(2, waiting / (n+1)) + min(2, fit / n)``
        ``+ (1 if m + T >= 2 T else -1) + (1 if the CPU tier has room else -4) - 0.35 importance - 2 near - churn``

    The longest prefix with ``m >= max(0.05, 2 T)`` is copied if a waiting call would fit right now and the utility
    reaches the threshold. Sources: pku-lemonade/TokenCake, state of 2026-09-07 (``scheduling.py``,
    ``offload_policy.py``, ``offloading.py``, ``lifecycle.py``).

    Assumed:
        Calls without TokenCake's labels are described from the graph. An undeclared output limit is what the
        agent type has produced on average. With nothing admitted, a call whose commitment exceeds memory is
        admitted as stock vLLM would. Memory is divided among all types heard of, at the first scan of waiting
        calls in each period. Charges are kept by call, not by block. A call that loads its prefix is one of
        those that wait for memory. The bandwidth is known after the first copy.

    Not expressed:
        Pausing the growth of running calls (``commit=progress``): they are preempted. References on CPU
        copies: their rank is renewed when they are chosen. The step without computation when a copy starts.
        Calls outside of TokenCake's protocol, which would be a barrier in the queue.

    Cost:
        With 100 calls waiting, 100 running and 200 stalled, a scan of all waiting calls (``order``) takes 0.2 ms,
        most of it a prefix lookup of each for the affinity bands (``cache_affinity_score_band=0`` halves it), and
        ``place`` 0.2 ms, since it asks what each would take. Both happen when a call was admitted or has ended:
        until then, who was denied stays denied, and only calls that arrive are looked at.

    Args:
        mode: ``agent`` (scheduling), ``offload`` (preservation), ``agent_offload`` (both), ``base`` (stock vLLM).
        commit: What an admitted call is promised: ``all`` (prompt and output limit), ``progress`` (prompts,
            and one call's output), ``reclaim`` (prompts; outputs once a call was preempted).
        reserve_generation_tokens: Commit outputs at all.
        decode_prefill_token_budget: Most prefill tokens of a step while something decodes; 0 is no limit.
        cache_affinity_score_band: Width of the score bands that are sorted by cached prefix; 0 does not.
        inherit_join_priority: Members of a join group share the greatest score among them.
        priority_borrow_score_margin: A call may use another waiting type's reserve if it scores this much more;
            0 never.
        temporal_selection: Order in which waiting calls are tried for the freed memory.
        critical_ratio: Part of the agent types that get reservations.
        reserve_ratio_min: Least reserved part of memory.
        reserve_ratio_max: Greatest reserved part of memory.
        gpu_usage_low: Usage at which the reserved part shrinks.
        gpu_usage_high: Usage at which it grows; above it, affinity counts.
        reserve_adjustment_step: By how much it changes.
        partition_period: Steps between two partitions.
        victim_score_band: Only calls within this distance of the lowest score are preempted.
        min_gpu_usage: Usage below which copies need a queue that exceeds memory.
        high_pressure_gpu_usage: Usage from which a long stall is an emergency.
        score_threshold: Least utility of a copy.
        backoff_steps: Steps before a rejected generation is looked at again, unless the pressure changes.
        eviction_window_blocks: Most blocks of waiting demand that count.
        max_relief_blocks: Most new blocks of a copy; 0: as many as the tool leaves time for.
        default_stall_s: Duration of a tool of which nothing is known.
        release_lead_s: Copies are let go at least this long before the tool is expected to end.
        ewma_alpha: Weight of the newest duration in the history.
        bandwidth_gb_s: Assumed speed of the link before the first copy.
        transfer_base_s: Fixed seconds of a copy.
        transfer_submit_s: Seconds that each block of a copy adds.
    """

    info = Info.HISTORY
    together: ClassVar = {
        "order": ("admit", "what is admitted is charged and committed there"),
        "admit": ("order", "scores, charges and commitments are brought up to date there"),
    }

    def __init__(
        self,
        *,
        mode: Mode = "agent_offload",
        commit: Literal["all", "progress", "reclaim"] = "all",
        reserve_generation_tokens: bool = True,
        decode_prefill_token_budget: int = 0,
        cache_affinity_score_band: int = 500,
        inherit_join_priority: bool = True,
        priority_borrow_score_margin: int = 500,
        temporal_selection: Literal["first_fit", "best_fit", "priority_first"] = "first_fit",
        critical_ratio: float = 0.75,
        reserve_ratio_min: float = 0.05,
        reserve_ratio_max: float = 0.30,
        gpu_usage_low: float = 0.40,
        gpu_usage_high: float = 0.75,
        reserve_adjustment_step: float = 0.05,
        partition_period: int = 500,
        victim_score_band: int = 3000,
        min_gpu_usage: float = 0.60,
        high_pressure_gpu_usage: float = 0.85,
        score_threshold: float = 1.0,
        backoff_steps: int = 8,
        eviction_window_blocks: int = 128,
        max_relief_blocks: int = 0,
        default_stall_s: float = 1.0,
        release_lead_s: float = 0.10,
        ewma_alpha: float = 0.5,
        bandwidth_gb_s: float = 12.0,
        transfer_base_s: float = 0.0,
        transfer_submit_s: float = 3e-6,
    ) -> None:
        _at_least(0, decode_prefill_token_budget=decode_prefill_token_budget, backoff_steps=backoff_steps)
        _at_least(0, max_relief_blocks=max_relief_blocks, transfer_base_s=transfer_base_s)
        _at_least(1, partition_period=partition_period, eviction_window_blocks=eviction_window_blocks)
        partition = PartitionRule(
            reserve_ratio_min,
            reserve_ratio_max,
            gpu_usage_low,
            gpu_usage_high,
            reserve_adjustment_step,
            critical_ratio,
        )
        self._schedules = mode in ("agent", "agent_offload")
        self._preserves = self.offloads = mode in ("offload", "agent_offload")
        self._prefill_budget = decode_prefill_token_budget
        self.scheduling = Scheduling(
            SchedulingRule(
                partition,
                partition_period,
                commit,
                reserve_generation_tokens,
                inherit_join_priority,
                cache_affinity_score_band,
                priority_borrow_score_margin,
                victim_score_band,
            )
        )
        self.preservation = Preservation(
            PreservationRule(
                min_gpu_usage,
                high_pressure_gpu_usage,
                score_threshold,
                backoff_steps,
                eviction_window_blocks,
                max_relief_blocks,
                default_stall_s,
                release_lead_s,
                ewma_alpha,
                bandwidth_gb_s * 1e9,
                transfer_base_s,
                transfer_submit_s,
                temporal_selection,
            ),
            self.scheduling,
            scheduled=self._schedules,
        )
        self._chains: dict[str, ChainView] = {}

    def observe(self, event: Event, view: View) -> None:
        """Follow calls, programs and tools; learn durations."""
        if self._preserves:
            self._follow(event, view)
        if self._schedules:
            self.scheduling.observe(event, view)

    def order(self, view: View, waiting: Sequence[CallView]) -> Sequence[CallView]:
        """By score; within bands of close scores, by cached prefix, once memory is nearly committed."""
        return self.scheduling.order(view, waiting) if self._schedules else waiting

    def admit(self, view: View, call: CallView, need: Need) -> Verdict:
        """What fits beside all commitments and reservations; what does not is passed over."""
        return self.scheduling.admit(view, call, need) if self._schedules else stock_admit(need)

    def budget(self, view: View) -> Budget | None:
        """Cap prefill while something decodes, if asked to."""
        if not self._schedules or not self._prefill_budget:
            return None
        decoding = sum(call.computed_tokens >= call.prompt_tokens for call in view.running)
        return Budget(min(view.token_budget, decoding + self._prefill_budget)) if decoding else None

    def victim(self, view: View, need: int, for_call: CallView) -> CallView:
        """The running call with a low score whose recomputation costs least for what it frees."""
        if not self._schedules:
            return view.running[-1]
        ready = {name: chain.cpu_blocks * view.block_size for name, chain in self._chains.items()}
        return self.scheduling.calls.victim(view, need, for_call, ready, self.scheduling.rule.victim_band)

    def place(self, view: View, trigger: Trigger, subject: ChainView | None) -> Sequence[Action]:
        """Copy prefixes of finished calls whose tools run, where that is worth it."""
        if not self._preserves:
            return ()
        if trigger is Trigger.STEP:
            return self.preservation.evaluate(view)
        if trigger is Trigger.QUEUED and subject is not None:
            self._chains[subject.call.id] = subject
        if trigger is Trigger.STALL and subject is not None:
            self.preservation.finished(subject, self.scheduling.calls.describe(subject.call), view.now)
        return ()

    def next_change(self, view: View) -> tuple[float | None, int | None] | None:
        """Denied calls stay denied and hopeless copies hopeless until something happens; else the next step."""
        if self._preserves and self.preservation.fit_demand:
            return None, view.step + 1
        if not self._schedules or not view.waiting:
            return None
        return None, self.scheduling.next_scan(view)

    def _follow(self, event: Event, view: View) -> None:
        kind, keep = event.kind, self.preservation
        if event.call:
            keep.changed(event.call)
        if kind is EventKind.TOOL_STARTED:
            keep.tool_started(event, view, self.info)
        elif kind is EventKind.TOOL_FINISHED:
            keep.tool_finished(event)
        elif kind is EventKind.PROGRAM_FINISHED:
            keep.program_finished(event.program)
        elif kind is EventKind.TRANSFER_DONE:
            keep.copied(event.reason, view)
        elif kind is EventKind.CALL_FINISHED:
            self._chains.pop(event.call, None)


def _at_least(least: float, **values: float) -> None:
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} must be >= {least}, got {value}")
