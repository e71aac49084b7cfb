"""SGLang's longest-prefix-match order with its admission by a new-token ratio."""

from __future__ import annotations

from collections.abc import Sequence

from tokencake.policies.api import (
    CallView,
    Event,
    EventKind,
    Info,
    Need,
    Policy,
    Verdict,
    View,
)

CLIP = 4096
"""Most outputs of a call that admission reckons with (``SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION``)."""
RETRACTED = 20
"""Outputs granted to each running call when the ratio is set anew after a retraction."""


class SGLangLPM(Policy):
    """SGLang with ``--schedule-policy lpm``: the call that finds most of its prompt in the cache goes first.

    **Order** (SGLang 0.5.2, ``managers/schedule_policy.py``): longest matched prefix first; first come, first
    served while more than ``most_sorted`` calls wait.

    **Admission**, in tokens, with ``r`` the new-token ratio:

        ``room = free - sum over running of  min(max_tokens - out, 4096) * r``

    A call starts if ``extend + min(max_tokens, 4096) < room``, ``extend`` being what it does not find; the first
    that does not fit ends the scan. ``r`` starts at ``r0 = min(1, 0.7 * conservativeness)`` and falls by equal parts
    to ``0.14 * r0`` within ``decay_steps`` steps; after a retraction it is
    ``min(1, (outputs so far + 20 * calls) / sum of max_tokens)`` over the running calls, and falls from there.

    **Retraction** when memory is short: the call with fewest outputs, among equals the one with the longest input.

    Assumed:
        A call that was just admitted counts like any running one: with the part ``r`` of its outputs (SGLang: all
        of them, in the pass that admits it), and with the blocks that its chunk took. A call without a declared
        ``max_tokens`` counts with 4096. The match is the GPU's, in whole blocks. Where nothing runs, the first
        call starts in any case.

    Not expressed:
        Retracting ahead: SGLang goes on until there is room for 20 more outputs of each running call, vLLM asks for
        one victim when a block is missing. Putting the second of two waiting calls last that share a prefix
        nobody has cached: a view does not tell what waiting calls share. Prefill batches before decodes, blocks
        of one token, overlap scheduling: another engine. Eviction by leaves of the radix tree is what vLLM's free
        list comes near to; HiCache is ``policy.store=vllm-offload`` in a composition.

    Cost:
        Ordering 100 waiting calls takes the simulator some 160 us, one prefix lookup each, where SGLang walks
        its tree for each of them, too; an admission beside 100 running calls takes some 90 us. The ratio falls in
        every step, so while calls wait every step is asked.

    Args:
        most_sorted: Waiting calls up to which the order is by match.
        conservativeness: Factor on the initial ratio (``--schedule-conservativeness``).
        decay_steps: Steps in which the ratio falls to its least.
    """

    info = Info.NONE

    def __init__(self, *, most_sorted: int = 128, conservativeness: float = 1.0, decay_steps: int = 600) -> None:
        if most_sorted < 0:
            raise ValueError(f"most_sorted must be >= 0, got {most_sorted}")
        if not conservativeness >= 0:
            raise ValueError(f"conservativeness must be >= 0, got {conservativeness}")
        if decay_steps < 1:
            raise ValueError(f"decay_steps must be >= 1, got {decay_steps}")
        self.most_sorted = most_sorted
        self._start = min(1.0, 0.7 * conservativeness)
        self._least = 0.14 * self._start
        self._fall = (self._start - self._least) / decay_steps
        self._ratio_then = self._start
        self._then = 0

    def observe(self, event: Event, view: View) -> None:
        """Set the ratio anew after a retraction."""
        if event.kind is EventKind.CALL_PREEMPTED:
            running = view.running
            decoded = sum(call.output_tokens for call in running) + RETRACTED * len(running)
            limits = sum(call.max_tokens or CLIP for call in running)
            self._ratio_then = min(1.0, decoded / limits) if limits else self._start
            self._then = view.step

    def ratio(self, view: View) -> float:
        """The new-token ratio now."""
        return max(self._least, self._ratio_then - self._fall * (view.step - self._then))

    def order(self, view: View, waiting: Sequence[CallView]) -> Sequence[CallView]:
        """Longest match first, unless too many wait."""
        if len(waiting) > self.most_sorted:
            return waiting
        return sorted(waiting, key=lambda call: -_matched(view, call))

    def admit(self, view: View, call: CallView, need: Need) -> Verdict:
        """Whether the call and a part of what all may still generate fit."""
        if not need.fits:
            return Verdict.STOP
        running = view.running
        if not running:
            return Verdict.ADMIT
        growth = sum(min((other.max_tokens or CLIP) - other.output_tokens, CLIP) for other in running)
        room = (view.gpu.free - need.free_hits) * view.block_size - growth * self.ratio(view)
        extend = call.prompt_tokens + call.output_tokens - need.gpu_hit * view.block_size
        most = min((call.max_tokens or CLIP) - call.output_tokens, CLIP)
        return Verdict.ADMIT if extend + most < room else Verdict.STOP

    def victim(self, view: View, need: int, for_call: CallView) -> CallView:
        """The running call with fewest outputs, then with the longest input."""
        return min(view.running, key=lambda call: (call.output_tokens, -call.prompt_tokens))

    def next_change(self, view: View) -> tuple[float | None, int | None] | None:
        """Every step, while somebody waits."""
        return (None, view.step + 1) if view.waiting else None


def _matched(view: View, call: CallView) -> int:
    """Leading blocks of a waiting call that the GPU has; 0 for one that cannot start now."""
    need = view.need(call)
    return 0 if need is None else need.gpu_hit
