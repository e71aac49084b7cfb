"""What a copy of a stalled prefix is worth to TokenCake: its utility, its cost, and why it is not made.

Formulas of the authors' 2026 port (``offload_policy.py``). Its terms are those of the paper-era scheduler's
coordinator: stall margin, pressure, fit, importance, completion, upload safety, CPU capacity, churn.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

RECENT_STEPS, MOST_RECENT, CHURN_BUDGET = 4, 96, 64
"""A copy counts as recent for so many steps; so many are remembered; so many are free of charge."""


@dataclass(frozen=True, slots=True)
class PreservationRule:
    """Constants of preservation; see the parameters of ``tokencake-upstream``."""

    min_usage: float
    high_usage: float
    threshold: float
    backoff_steps: int
    window_blocks: int
    max_relief_blocks: int
    default_stall_s: float
    release_lead_s: float
    ewma_alpha: float
    bandwidth: float
    base_s: float
    submit_s_per_block: float
    selection: str


@dataclass(frozen=True, slots=True)
class Pressure:
    """What waits for memory, worked out once per step."""

    usage: float
    free: int
    waiting: int
    waiting_demand: int
    critical_demand: int
    shared_available: int
    fit_demand: int
    cpu_free: int

    @property
    def signature(self) -> tuple[int, ...]:
        """Rejected generations are looked at again when one of these changes."""
        return (
            self.free,
            self.waiting,
            self.waiting_demand,
            self.critical_demand,
            self.shared_available,
            self.fit_demand,
            self.cpu_free,
        )

    def fitting(self, fit_demand: int) -> Pressure:
        """The same pressure with another fit."""
        return replace(self, fit_demand=fit_demand)

    @property
    def queued(self) -> bool:
        """Whether more is wanted than is free."""
        return self.waiting_demand > self.free or self.critical_demand > self.shared_available


@dataclass(frozen=True, slots=True)
class Candidate:
    """A prefix that could be copied."""

    blocks: int
    new_blocks: int
    remaining_s: float
    transfer_s: float
    importance: float
    near: bool
    churn: float
    fits_cpu: bool

    @property
    def margin_s(self) -> float:
        """Time that is left after both copies."""
        return self.remaining_s - self.transfer_s


class Churn:
    """What recent copies cost the next one: an eighth of a point for each beyond the budget, at most four.

    The 1.5 points of a chain that was itself copied lately never apply: nobody copies a chain twice.
    """

    def __init__(self) -> None:
        self._copied: deque[int] = deque(maxlen=MOST_RECENT)

    def copied(self, step: int) -> None:
        """A copy starts in a step."""
        self._copied.append(step)

    def at(self, step: int) -> float:
        """The term of the utility in a step."""
        recent = sum(step - copied <= RECENT_STEPS for copied in self._copied)
        return min(4.0, max(0, recent - CHURN_BUDGET) / 8)


def utility(c: Candidate, p: Pressure) -> float:
    """Utility of copying a candidate under a pressure (``offload_policy.py``).

    >>> search = Candidate(300, 300, 4.0, 0.16, 3.0, False, 0.0, True)
    >>> round(utility(search, Pressure(0.9, 300, 9, 2700, 2000, 0, 128, 30000)), 3)
    11.177
    """
    return (
        min(6.0, c.margin_s / max(0.25, c.transfer_s))
        + 6 * max(0.0, p.usage - 0.60)
        + min(2.0, p.waiting_demand / (c.blocks + 1))
        + min(2.0, p.fit_demand / c.blocks)
        + (1 if c.remaining_s >= 2 * c.transfer_s else -1)
        + (1 if c.fits_cpu else -4)
        - 0.35 * c.importance
        - 2 * c.near
        - c.churn
    )


def rejection(c: Candidate, p: Pressure, rule: PreservationRule) -> str:
    """Why a candidate is not copied, or an empty string."""
    t, margin = c.transfer_s, c.margin_s
    emergency = p.usage >= rule.high_usage and margin >= max(4 * t, 5.0) and p.waiting > 0
    if not p.fit_demand:
        return "no waiting call could use the memory now"
    if not c.fits_cpu:
        return "the CPU tier has no room"
    if c.remaining_s <= t or (margin < max(0.05, 2 * t) and not emergency):
        return "the tool ends too soon"
    if p.usage < rule.min_usage and (not p.queued or p.fit_demand < c.blocks or not p.waiting):
        return "memory is not short"
    if c.importance >= 8 and not emergency and (c.near or margin < max(0.5, 8 * t) or c.remaining_s < 2 * t):
        return "an important call returns too soon"
    if utility(c, p) < rule.threshold and not emergency:
        return "the utility is below the threshold"
    return ""


def longest(limit: int, present: int, remaining_s: float, cost: TransferCost, room: int) -> int:
    """Longest prefix that both copies and the tool leave time for.

    Args:
        limit: Blocks that can be copied or are in the CPU tier already.
        present: Leading blocks that the tier has.
        remaining_s: Until the tool is expected to end.
        cost: Seconds of the copies.
        room: Blocks that the tier can take.
    """

    def possible(n: int) -> bool:
        new = max(0, n - present)
        t = cost.both(new, n)
        return new <= room and remaining_s - t >= max(0.05, 2 * t)

    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if possible(middle) else (low, middle - 1)
    return low


class TransferCost:
    """Predicted seconds of copies: a base, bytes over bandwidth, and the submission of each block.

    The bandwidth starts at the configured value; from the first copy in a direction on it is what the
    link does.
    """

    def __init__(self, rule: PreservationRule, block_bytes: float):
        self._rule = rule
        self._block_bytes = block_bytes
        self.d2h = self.h2d = rule.bandwidth

    def seconds(self, blocks: int, bandwidth: float) -> float:
        """One copy of ``blocks``; none takes no time."""
        if not blocks:
            return 0.0
        return self._rule.base_s + blocks * (self._block_bytes / bandwidth + self._rule.submit_s_per_block)

    def both(self, new_blocks: int, blocks: int) -> float:
        """Out what is new, and back all of it."""
        return self.seconds(new_blocks, self.d2h) + self.seconds(blocks, self.h2d)
