"""How TokenCake ranks agent types and divides GPU memory among them.

Type score and partition are those of the authors' 2026 port (``scheduling.py``); the two-phase update is
the paper's Algorithm 2 with the port's constants and its refinement of the shares.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tokencake.policies.tokencake_metadata import Metadata

MOST_TYPES = 4096
"""Types remembered; the one heard of longest ago is forgotten."""


@dataclass(slots=True)
class TypeHistory:
    """What one agent type's calls were like; sums over their first admissions and their ends."""

    importance: float = 0.0
    deferrals: int = 0
    preemptions: int = 0
    samples: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    completions: int = 0
    service_s: float = 0.0
    depth: int = 0
    out_degree: int = 0
    in_degree: int = 0
    remaining: int = 0
    elapsed_s: float = 0.0

    def score(self, waits_s: Sequence[float], importance: float) -> float:
        """How much memory the type deserves.

        Args:
            waits_s: How long each of its waiting calls has been waiting.
            importance: Greatest importance of its live calls.
        """
        count = len(waits_s)
        mean_wait = sum(waits_s) / count if count else 0.0
        urgency = (
            math.log1p(mean_wait) + math.log1p(count) + math.log1p(self.deferrals) + 1.5 * math.log1p(self.preemptions)
        )
        n = max(1, self.samples)
        tokens = (self.input_tokens + self.output_tokens) / n
        service = self.service_s / max(1, self.completions)
        cost = math.log1p(tokens)
        if service > 0 and tokens > 0:
            cost += math.log1p(service) + math.log1p(tokens / service)
        graph = (0.7 * self.depth + 0.5 * self.out_degree + 0.25 * self.in_degree + 0.20 * self.remaining) / n
        graph += 0.10 * min(self.elapsed_s / n, 180.0)
        return max(1.0, 2 * max(self.importance, importance) + urgency + 0.5 * cost + graph)


class TypeHistories:
    """Histories by agent type."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, TypeHistory] = OrderedDict()

    def of(self, name: str) -> TypeHistory:
        """The history of a type; a new one if it was never heard of."""
        history = self._of.get(name)
        if history is None:
            history = self._of[name] = TypeHistory()
            if len(self._of) > MOST_TYPES:
                self._of.popitem(last=False)
        else:
            self._of.move_to_end(name)
        return history

    def names(self) -> tuple[str, ...]:
        """Types heard of, the one heard of longest ago first."""
        return tuple(self._of)

    def deferred(self, name: str, times: int = 1) -> None:
        """A call of the type was denied, so many times."""
        self.of(name).deferrals += times

    def admitted(self, name: str, m: Metadata, tokens: int, elapsed_s: float, *, first: bool) -> None:
        """A call of the type was admitted, for the ``first`` time or after a preemption."""
        history = self.of(name)
        history.deferrals = max(0, history.deferrals - 1)
        history.importance = m.importance
        if not first:
            return
        history.samples += 1
        history.input_tokens += tokens
        history.depth += m.depth
        history.out_degree += m.out_degree
        history.in_degree += m.in_degree
        history.remaining += m.remaining_depth
        history.elapsed_s += elapsed_s

    def completed(self, name: str, tokens: int, service_s: float) -> None:
        """A call of the type ended with ``tokens`` outputs, ``service_s`` after its admission."""
        history = self.of(name)
        history.output_tokens += tokens
        history.completions += 1
        history.service_s += service_s


@dataclass(frozen=True, slots=True)
class TypeRank:
    """An agent type when memory is divided."""

    name: str
    score: float
    importance: float
    used_blocks: int


@dataclass(frozen=True, slots=True)
class Partition:
    """GPU blocks that each critical type may count on, and those open to all."""

    shared: int
    reserved: Mapping[str, int] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PartitionRule:
    """Constants of the two-phase update."""

    ratio_min: float
    ratio_max: float
    usage_low: float
    usage_high: float
    step: float
    critical_ratio: float

    def __post_init__(self) -> None:
        for low, high, what in (
            (self.ratio_min, self.ratio_max, "reserve_ratio_min <= reserve_ratio_max"),
            (self.usage_low, self.usage_high, "gpu_usage_low < gpu_usage_high"),
        ):
            if not 0 <= low <= high <= 1 or (low == high and "<=" not in what):
                raise ValueError(f"{what} must hold, both between 0 and 1, got {low} and {high}")
        if not 0 < self.critical_ratio <= 1:
            raise ValueError(f"critical_ratio must be > 0 and <= 1, got {self.critical_ratio}")

    def ratio(self, now: float, usage: float) -> float:
        """Phase 1: the reserved part of memory, one step up under pressure, one down without."""
        if usage >= self.usage_high:
            now += self.step
        elif usage <= self.usage_low:
            now -= self.step
        return min(max(now, self.ratio_min), self.ratio_max)

    def divide(self, total: int, ratio: float, types: Sequence[TypeRank]) -> Partition:
        """Phase 2: what each critical type gets of the reserved part, by score and by use.

        >>> rule = PartitionRule(0.05, 0.30, 0.40, 0.75, 0.05, 0.75)
        >>> used = {"a": 100, "b": 300, "c": 50, "d": 50}
        >>> ranks = [TypeRank(n, s, i, used[n]) for n, s, i in (("a", 30, 3), ("b", 20, 2), ("c", 10, 1), ("d", 5, 1))]
        >>> plan = rule.divide(3049, 0.30, ranks)
        >>> plan.shared, dict(plan.reserved)
        (2135, {'a': 403, 'b': 376, 'c': 135})
        """
        scores = {rank.name: rank.score for rank in types}
        if not types:
            return Partition(total)
        ranked = sorted(types, key=lambda rank: (rank.score, rank.importance, rank.name), reverse=True)
        critical = ranked[: max(1, int(self.critical_ratio * len(ranked)))]
        reserved = int(total * ratio)
        all_used = sum(rank.used_blocks for rank in types)
        all_scores = sum(rank.score for rank in critical)
        weights: dict[str, float] = {}
        for rank in critical:
            score_share = rank.score / all_scores
            memory_share = rank.used_blocks / all_used if all_used else 0.0
            weights[rank.name] = max(score_share, (memory_share + score_share) / 2, 1e-6)
        return Partition(total - reserved, _largest_remainder(reserved, weights), scores)


def _largest_remainder(whole: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Split ``whole`` in proportion; leftover units go to the largest fractions, then the larger name."""
    total = sum(weights.values())
    exact = {name: whole * weight / total for name, weight in weights.items()}
    parts = {name: int(value) for name, value in exact.items()}
    order = sorted(exact, key=lambda name: (exact[name] - parts[name], name), reverse=True)
    for name in order[: whole - sum(parts.values())]:
        parts[name] += 1
    return parts
