"""Whether predictions put policies in the order in which they were measured: Kendall's tau."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from tokencake.experiments.pairing import Pair

_SAMPLES = 2000


@dataclass(frozen=True)
class Ranking:
    """Agreement on the order of the policies of one setting.

    Attributes:
        setting: which.
        metric: by which they are ordered.
        policies: how many.
        tau: Kendall's tau-a over all pairs of policies; a predicted tie counts as neither right nor wrong.
        low: 2.5 % point of its bootstrap distribution over the measured repeats, predictions held fixed; NaN with one.
            A rough interval where repeats are few: three have ten different resamples.
        high: 97.5 % point.
        clear_tau: tau over the pairs whose measured difference exceeds the spread; NaN if there is none.
        set_aside: pairs inside the spread.
        pairs: all pairs.
        repeats: what the bootstrap draws from: rounds in which every policy was measured.
    """

    setting: str
    metric: str
    policies: int
    tau: float
    low: float
    high: float
    clear_tau: float
    set_aside: int
    pairs: int
    repeats: int


def rankings(pairs: Sequence[Pair], metric: str = "program_latency_mean_s", seed: int = 0) -> list[Ranking]:
    """Rank the policies of every setting that has at least two."""
    settings: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for pair in pairs:
        settings.setdefault(pair.setting, {})[pair.policy] = pair.values(metric)
    return [_ranking(name, metric, found, seed) for name, found in settings.items() if len(found) > 1]


def _ranking(setting: str, metric: str, values: Mapping[str, tuple[list[float], list[float]]], seed: int) -> Ranking:
    predicted = [fmean(forecast) for forecast, _ in values.values()]
    samples = [measured for _, measured in values.values()]
    measured = [fmean(sample) for sample in samples]
    ranges = [max(sample) - min(sample) for sample in samples]
    everything = list(combinations(range(len(values)), 2))
    clear = [(i, j) for i, j in everything if abs(measured[i] - measured[j]) > max(ranges[i], ranges[j])]
    repeats = min(map(len, samples))
    low, high = _interval(predicted, samples, repeats, seed)
    return Ranking(
        setting,
        metric,
        len(values),
        _tau(predicted, measured, everything),
        low,
        high,
        _tau(predicted, measured, clear),
        len(everything) - len(clear),
        len(everything),
        repeats,
    )


def _tau(predicted: Sequence[float], measured: Sequence[float], pairs: Sequence[tuple[int, int]]) -> float:
    """Concordant less discordant pairs, over all of them."""
    if not pairs:
        return math.nan
    return sum(_sign(predicted[i] - predicted[j]) * _sign(measured[i] - measured[j]) for i, j in pairs) / len(pairs)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _interval(
    predicted: Sequence[float], samples: Sequence[Sequence[float]], repeats: int, seed: int
) -> tuple[float, float]:
    """Bootstrap: repeats are drawn with replacement, the same ones for all policies, because they ran side by side."""
    if repeats < 2:
        return math.nan, math.nan
    rng = random.Random(seed)
    pairs = list(combinations(range(len(samples)), 2))
    taus = []
    for _ in range(_SAMPLES):
        drawn = [rng.randrange(repeats) for _ in range(repeats)]
        taus.append(_tau(predicted, [fmean(sample[i] for i in drawn) for sample in samples], pairs))
    taus.sort()
    return taus[round(0.025 * (_SAMPLES - 1))], taus[round(0.975 * (_SAMPLES - 1))]
