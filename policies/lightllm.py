"""LightLLM's admission: a call starts only if the coming peak of memory fits."""

from __future__ import annotations

import random
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Sequence
from hashlib import blake2b
from typing import Literal

from tokencake.policies.api import CallView, Event, EventKind, Info, Need, Policy, Verdict, View


class LightLLM(Policy):
    """LightLLM: admits a call if the largest memory that all would ever need together fits.

    **Peak** (ModelTC/lightllm, ``router/req_queue``): with ``a`` the tokens of a call plus one, ``b`` its
    outputs still to come, over running calls and the candidate sorted by ``b``, largest first,

        ``peak = max over k of  b_k * k + sum of a_i for i <= k``

    A call starts while ``peak < capacity``; a prefix that calls share counts for each of them. The first that does
    not fit ends the scan. Otherwise stock vLLM: first come,
    first served, the newest call is preempted.

    **Outputs to come.** ``estimate=limits`` (the repository): ``max_tokens - out`` where the engine is *busy*,
    which is from a usage of ``busy_usage`` on, by default always; else
    ``min(max_tokens, max(1.1 * out, 1024)) - out``. ``estimate=history`` (Past-Future, ASPLOS'25, arXiv
    2507.10150): a length drawn from those of the last ``window`` calls that ended, given that it is longer
    than ``out``; a part ``reserve`` of the capacity stays free.

    Assumed:
        Past-Future's window, the conditional draw and the reserve were not checked against the paper. Each
        call keeps one draw, from ``seed`` and its name, so that its estimate moves with its outputs only;
        before any call has ended, limits. A call without a declared ``max_tokens`` is taken to have
        ``undeclared_tokens``. Where nothing runs, the first call starts in any case.

    Not expressed:
        The pause of up to six decode steps between two attempts, and prefill batches apart from decodes:
        vLLM mixes them. Tokens held by other parts of a composition count as free here.

    Cost:
        Each candidate is weighed against all running calls: some 110 us with a hundred of them. The peak moves
        with every output, so while calls wait every step is asked.

    Args:
        estimate: ``limits`` or ``history``.
        busy_usage: Usage of memory from which limits count in full (``router_token_ratio``).
        undeclared_tokens: ``max_tokens`` of calls that declare none.
        window: Output lengths remembered.
        reserve: Part of the capacity that ``history`` leaves free.
        seed: Decides the draws.
    """

    info = Info.NONE

    def __init__(
        self,
        *,
        estimate: Literal["limits", "history"] = "limits",
        busy_usage: float = 0.0,
        undeclared_tokens: int = 1024,
        window: int = 1000,
        reserve: float = 0.03,
        seed: int = 0,
    ) -> None:
        for name, value in (("undeclared_tokens", undeclared_tokens), ("window", window)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        for name, share in (("busy_usage", busy_usage), ("reserve", reserve)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be >= 0 and <= 1, got {share}")
        self.estimate = estimate
        self.busy_usage = busy_usage
        self.undeclared_tokens = undeclared_tokens
        self.window = window
        self.reserve = reserve
        self.seed = seed
        self._recent: deque[int] = deque()
        self._lengths: list[int] = []
        self._draws: dict[str, float] = {}

    # -- learning ---------------------------------------------------------------------------------------

    def observe(self, event: Event, view: View) -> None:
        """Learn the length of a call that ended."""
        if event.kind is EventKind.CALL_FINISHED:
            self._draws.pop(event.call, None)
            if self.estimate == "history":
                self._learn(event.output_tokens)

    def _learn(self, tokens: int) -> None:
        if len(self._recent) == self.window:
            del self._lengths[bisect_right(self._lengths, self._recent.popleft()) - 1]
        self._recent.append(tokens)
        insort(self._lengths, tokens)

    # -- deciding -----------------------------------------------------------------------------------------

    def admit(self, view: View, call: CallView, need: Need) -> Verdict:
        """Whether the coming peak fits, and what is needed now."""
        if not need.fits:
            return Verdict.STOP
        running = view.running
        if not running:
            return Verdict.ADMIT
        capacity = view.gpu.capacity * view.block_size
        if self.estimate == "history":
            capacity = int(capacity * (1 - self.reserve))
        busy = 1 - view.gpu.free / view.gpu.capacity >= self.busy_usage
        sizes = [self._size(other, busy) for other in running]
        sizes.append(self._size(call, busy))
        return Verdict.ADMIT if peak(sizes) < capacity else Verdict.STOP

    def _size(self, call: CallView, busy: bool) -> tuple[int, int]:
        """Outputs to come, and tokens now."""
        out = call.output_tokens
        return self._to_come(call, out, busy), call.prompt_tokens + out + 1

    def _to_come(self, call: CallView, out: int, busy: bool) -> int:
        limit = call.max_tokens or self.undeclared_tokens
        if self.estimate == "history" and self._lengths:
            return max(0, min(limit, self._drawn(call.id, out)) - out)
        return max(0, (limit if busy else min(limit, max(int(1.1 * out), 1024))) - out)

    def _drawn(self, call: str, out: int) -> int:
        """A length longer than ``out``, at the call's own quantile of those seen."""
        shorter = bisect_right(self._lengths, out)
        if shorter == len(self._lengths):
            return out + 1
        draw = self._draws.get(call)
        if draw is None:
            text = f"{self.seed}/{call}".encode("utf-8", "surrogatepass")
            draw = self._draws[call] = random.Random(blake2b(text, digest_size=8).digest()).random()
        return self._lengths[shorter + int(draw * (len(self._lengths) - shorter))]

    def next_change(self, view: View) -> tuple[float | None, int | None] | None:
        """Every step, while somebody waits: each output moves the peak."""
        return (None, view.step + 1) if view.waiting else None


def peak(sizes: Sequence[tuple[int, int]]) -> int:
    """Largest memory ever needed, in tokens, of calls ``(outputs to come, tokens now)``.

    >>> peak([(10, 5), (2, 7)])  # at the end of the second: 5 + 2 + 7 + 2; at the end of the first: 5 + 10
    16
    """
    most = total = 0
    for count, (to_come, tokens) in enumerate(sorted(sizes, reverse=True), 1):
        total += tokens
        most = max(most, to_come * count + total)
    return most
