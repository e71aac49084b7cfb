"""The statistics every table and figure uses: means over seeds, paired differences, and their intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import TypeVar

# Two-sided 95 % points of Student's t for 1..30 degrees of freedom.
_T95 = (
    12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139,
    2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963,
    2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831, 2.048407, 2.045230, 2.042272,
)  # fmt: skip
_DUST = 1e-12  # a relative error of sums of floating-point numbers, and far below what anything is measured to

Sample = TypeVar("Sample", int, tuple[int, ...])  # a seed, or what else makes two runs a pair


def t95(degrees: int) -> float:
    """The two-sided 95 % point of Student's t (Cornish-Fisher expansion beyond 30 degrees of freedom)."""
    if degrees < 1:
        raise ValueError(f"degrees must be >= 1, got {degrees}")
    if degrees <= len(_T95):
        return _T95[degrees - 1]
    z = NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def beyond(change: float, margin: float) -> bool:
    """Whether a relative change is further from 0 than its margin; what rounding leaves of equal numbers is not.

    >>> beyond(0.1 + 0.2 - 0.3, 0.0), beyond(0.02, 0.01)
    (False, True)
    """
    return abs(change) > margin + _DUST


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % confidence interval.

    With one value the interval is unknown (`low` and `high` are NaN); where one of the values is NaN, so is the mean.
    """

    mean: float
    low: float
    high: float
    count: int

    @property
    def half(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean ± t(n-1) · s / sqrt(n) over independent repeats (seeds).

    >>> mean_interval([1.0, 2.0, 3.0]).mean
    2.0
    """
    if not values:
        raise ValueError("interval of no values")
    mean = fmean(values)
    if len(values) == 1 or math.isnan(mean):
        return Interval(mean, math.nan, math.nan, len(values))
    half = t95(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half, len(values))


def paired_difference(values: Mapping[Sample, float], baseline: Mapping[Sample, float]) -> Interval | None:
    """Mean of value minus baseline over the seeds that both have, with its t interval; None if they share no seed.

    Pairing on common seeds takes out what both policies suffer alike (arrivals, lengths), so the interval of the
    difference is narrower than the two intervals suggest.
    """
    common = sorted(values.keys() & baseline.keys())
    return mean_interval([values[s] - baseline[s] for s in common]) if common else None


def relative_change(values: Mapping[Sample, float], baseline: Mapping[Sample, float]) -> Interval | None:
    """Mean over the baseline's mean, less one, on the seeds that both have; None if there are none, or that mean is 0.

    The only estimator of "so many per cent faster", so that every table says the same of the same runs:

    * A ratio of means, not a mean of ratios. It is the part of all the seconds (or whatever is counted) that is saved,
      agrees with the two means printed beside it, and a seed weighs as much as it is long (Hoefler and Belli,
      Scientific Benchmarking of Parallel Computing Systems, SC 2015, rule 4: summarize costs, not ratios of them).
    * On common seeds, paired. The interval is t(n-1) times the standard error of the ratio estimator, s / (mean √n),
      where s is the deviation of value - ratio · baseline over seeds (Cochran, Sampling Techniques, 3rd ed., chapter
      6): seeds that are long for both alike say nothing against the ratio, and the baseline's mean is not taken as
      known.
    """
    common = sorted(values.keys() & baseline.keys())
    mean = fmean(baseline[s] for s in common) if common else 0.0
    if not mean:
        return None
    ratio = fmean(values[s] for s in common) / mean
    half = mean_interval([(values[s] - ratio * baseline[s]) / mean for s in common]).half
    return Interval(ratio - 1, ratio - 1 - half, ratio - 1 + half, len(common))
