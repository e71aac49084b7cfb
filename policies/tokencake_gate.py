"""The gate of TokenCake's Temporal Scheduler (Algorithm 1): whether a stalled call's KV leaves the GPU.

It asks three things: the predicted duration, the KV's size, and who waits for memory. The benefit test is the
utility of the authors' first implementation (:mod:`~tokencake.policies.tokencake_utility`).
"""

from __future__ import annotations

from collections.abc import Sequence

from tokencake.policies.api import CallView, View
from tokencake.policies.tokencake_stalled import Stalled
from tokencake.policies.tokencake_utility import Candidate, Churn, PreservationRule, Pressure, rejection


class Gate:
    """The gate, asked once per stalled call.

    Args:
        rule: Constants of the utility.
        keep: Whether stalled calls hold their KV, so that only what nobody else holds is freed.
    """

    def __init__(self, rule: PreservationRule, *, keep: bool):
        self._rule = rule
        self._keep = keep
        self._churn = Churn()

    def passed(self, step: int) -> None:
        """A chain goes out."""
        self._churn.copied(step)

    def opens(self, view: View, stalled: Stalled, transfer_s: float, pressure: Pressure, debt: int) -> bool:
        """Whether the tool outlasts both copies and the freed memory is worth them.

        Args:
            view: State of the host.
            stalled: The chain.
            transfer_s: Seconds of both copies, and of what precedes them.
            pressure: Memory, and who waits for it.
            debt: Blocks that are owed to copies on their way back.
        """
        chain = stalled.chain
        blocks = chain.gpu_blocks
        new = max(0, blocks - chain.cpu_blocks)
        remaining = stalled.expected_s - view.now
        candidate = Candidate(
            blocks=blocks,
            new_blocks=new,
            remaining_s=remaining,
            transfer_s=transfer_s,
            importance=min(10.0, stalled.meta.importance),
            near=stalled.meta.near,
            churn=self._churn.at(view.step),
            fits_cpu=new <= pressure.cpu_free,
        )
        freed = chain.own_blocks if self._keep else blocks
        fit = self._fit(view, freed, remaining - transfer_s, debt)
        return not rejection(candidate, pressure.fitting(fit), self._rule)

    def pressure(self, view: View, debt: int) -> Pressure:
        """Memory, and who waits for it; the fit is a chain's own."""
        size, free = view.block_size, view.gpu.free
        waiting = view.waiting
        return Pressure(
            usage=1 - free / view.gpu.capacity,
            free=free,
            waiting=len(waiting),
            waiting_demand=sum(-(-(call.prompt_tokens + call.output_tokens) // size) for call in waiting),
            critical_demand=0,
            shared_available=max(0, free - debt),
            fit_demand=0,
            cpu_free=view.cpu.free,
        )

    def _fit(self, view: View, freed: int, window_s: float, debt: int) -> int:
        """Blocks of the freed memory that waiting calls would use within the window.

        Calls that fit in what is free anyway gain nothing; one whose prompt takes longer than the window
        does not count.
        """
        free = view.gpu.free - debt
        room, used = free + freed, 0
        for call in self._candidates(view, freed):
            need = view.need(call)
            if need is None:
                continue
            blocks = need.full + need.free_hits
            hit = (need.gpu_hit + need.cpu_hit) * view.block_size
            if used + blocks > room or view.cost.prefill_time(max(1, call.prompt_tokens - hit), hit) > window_s:
                continue
            used += blocks
            if used >= room:
                break
        return max(0, min(used - max(0, free), self._rule.window_blocks))

    def _candidates(self, view: View, freed: int) -> Sequence[CallView]:
        selection = self._rule.selection
        if selection == "first_fit":
            return view.waiting
        if selection == "priority_first":
            return sorted(view.waiting, key=lambda call: (-call.importance, call.arrival_s, call.id))

        def distance(call: CallView) -> tuple[int, str]:
            need = view.need(call)
            return (abs(freed - need.full - need.free_hits) if need else 1 << 40), call.id

        return sorted(view.waiting, key=distance)
