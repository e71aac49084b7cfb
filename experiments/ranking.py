"""Whether predictions put policies in the order in which they were measured: Kendall's tau."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from tokencake.experiments.metrics import beyond, mean_interval
from tokencake.experiments.pairing import Pair, Repeat

_SAMPLES = 2000


@dataclass(frozen=True)
class Ranking:
    """Agreement on the order of the policies of one setting.

    Attributes:
        setting: which.
        metric: by which they are ordered.
        policies: how many.
        tau: Kendall's tau-a over all pairs of policies; a predicted tie counts as neither right nor wrong.
        low: 2.5 % point of its bootstrap distribution over the repeats; NaN with one. A rough interval where repeats
            are few: three have ten different resamples.
        high: 97.5 % point.
        clear_tau: tau over the pairs whose measured difference exceeds the spread; NaN if there is none.
        set_aside: pairs inside the spread.
        told_apart_tau: tau over the pairs that repeats tell apart; NaN if there is none.
        told_apart: pairs that repeats tell apart: the 95 % t interval of their relative difference, repeat by repeat,
            excludes 0. Policies that take turns share how fast the machine was, so that this is the sharper test; of
            pairs that do not differ it takes one in twenty.
        tested: pairs that have two or more repeats in common.
        pairs: all pairs.
        repeats: what the bootstrap draws from: repeats in which every policy was measured.
        together: whether the predictions for a repeat are drawn with it, as they are where all policies' are paired
            with the measured ones; else they are held fixed.
    """

    setting: str
    metric: str
    policies: int
    tau: float
    low: float
    high: float
    clear_tau: float
    set_aside: int
    told_apart_tau: float
    told_apart: int
    tested: int
    pairs: int
    repeats: int
    together: bool


@dataclass(frozen=True)
class _Policy:
    """What is known of one policy.

    Attributes:
        predicted: mean over all of it.
        measured: mean over all of it.
        spread: range of the measured runs.
        predictions: by repeat; none where they are not paired with the measured ones.
        repeats: what was measured, by repeat.
    """

    predicted: float
    measured: float
    spread: float
    predictions: Mapping[Repeat, float]
    repeats: Mapping[Repeat, float]

    def over(self, repeats: Sequence[Repeat], *, together: bool) -> tuple[float, float]:
        """Means over some repeats, predicted and measured; the predicted one over all, unless drawn `together`."""
        measured = fmean(self.repeats[repeat] for repeat in repeats)
        return fmean(self.predictions[repeat] for repeat in repeats) if together else self.predicted, measured


def rankings(pairs: Sequence[Pair], metric: str = "program_latency_mean_s", seed: int = 0) -> list[Ranking]:
    """Rank the policies of every setting that has at least two."""
    settings: dict[str, list[_Policy]] = {}
    for pair in pairs:
        settings.setdefault(pair.setting, []).append(_policy(pair, metric))
    return [_ranking(name, metric, found, seed) for name, found in settings.items() if len(found) > 1]


def _policy(pair: Pair, metric: str) -> _Policy:
    predicted, measured = map(fmean, pair.samples(metric))
    predictions, repeats = pair.by_repeat(metric)
    _, runs = pair.values(metric)
    return _Policy(predicted, measured, max(runs) - min(runs), predictions if pair.paired else {}, repeats)


def _ranking(setting: str, metric: str, policies: Sequence[_Policy], seed: int) -> Ranking:
    everything = list(combinations(policies, 2))
    differences = _differences([(policy.predicted, policy.measured) for policy in policies])
    spreads = [max(a.spread, b.spread) for a, b in everything]
    clear = [both for both, spread in zip(differences, spreads, strict=True) if abs(both[1]) > spread]
    tested = [found for a, b in everything if (found := _by_repeat(a, b))]
    told_apart = [(predicted, measured) for predicted, measured, apart in tested if apart]
    common = sorted(set[Repeat].intersection(*(set(policy.repeats) for policy in policies)))
    low, high = _interval(policies, common, seed)
    return Ranking(
        setting,
        metric,
        len(policies),
        _tau(differences),
        low,
        high,
        _tau(clear),
        len(everything) - len(clear),
        _tau(told_apart),
        len(told_apart),
        len(tested),
        len(everything),
        len(common),
        _together(policies),
    )


def _differences(means: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of all pairs of policies, predicted and measured."""
    return [(a[0] - b[0], a[1] - b[1]) for a, b in combinations(means, 2)]


def _tau(differences: Sequence[tuple[float, float]]) -> float:
    """Concordant less discordant pairs, predicted and measured, over all of them."""
    if not differences:
        return math.nan
    return sum(_sign(predicted) * _sign(measured) for predicted, measured in differences) / len(differences)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _by_repeat(a: _Policy, b: _Policy) -> tuple[float, float, bool] | None:
    """Relative difference over the repeats that two policies share: predicted, measured, and whether that is not 0."""
    common = sorted(a.repeats.keys() & b.repeats.keys())
    if len(common) < 2:
        return None
    measured = mean_interval([_relative(a.repeats[repeat], b.repeats[repeat]) for repeat in common])
    predicted = _relative(a.predicted, b.predicted)
    if a.predictions and b.predictions:
        predicted = fmean(_relative(a.predictions[repeat], b.predictions[repeat]) for repeat in common)
    return predicted, measured.mean, beyond(measured.mean, measured.half)


def _relative(value: float, other: float) -> float:
    """Difference over the mean of both: the same, but for its sign, whichever is the first."""
    return 2 * (value - other) / (value + other) if value != other else 0.0


def _together(policies: Sequence[_Policy]) -> bool:
    return all(policy.predictions for policy in policies)


def _interval(policies: Sequence[_Policy], common: Sequence[Repeat], seed: int) -> tuple[float, float]:
    """Bootstrap: repeats are drawn with replacement, the same ones for all policies, because they ran side by side.

    A repeat whose predictions were made for it is drawn with them: both sides have the speed that the machine had.
    """
    if len(common) < 2:
        return math.nan, math.nan
    rng = random.Random(seed)
    together = _together(policies)
    taus = []
    for _ in range(_SAMPLES):
        drawn = [rng.choice(common) for _ in common]
        means = [policy.over(drawn, together=together) for policy in policies]
        taus.append(_tau(_differences(means)))
    taus.sort()
    return taus[round(0.025 * (_SAMPLES - 1))], taus[round(0.975 * (_SAMPLES - 1))]
