import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokencake.experiments.metrics import mean_interval, paired_difference, relative_change, t95

FLOATS = st.floats(-1e6, 1e6)


@pytest.mark.parametrize("degrees", [1, 2, 4, 9, 30, 31, 60, 500])
def test_t95_holds_95_percent_of_the_density(degrees):
    # Student's t is tan-like: substitute x = sqrt(n) tan(u), the density becomes c * cos(u)^(n-1).
    edge = math.atan(t95(degrees) / math.sqrt(degrees))
    u = np.linspace(0, math.pi / 2, 400_001)
    density = np.cos(u) ** (degrees - 1)
    inside = np.trapezoid(np.where(u <= edge, density, 0.0), u) / np.trapezoid(density, u)
    assert inside == pytest.approx(0.95, abs=2e-5)


def test_interval_of_one_value_is_unknown_not_zero():
    interval = mean_interval([3.0])
    assert interval.mean == 3.0
    assert math.isnan(interval.low)
    assert math.isnan(interval.half)


@given(st.lists(FLOATS, min_size=2, max_size=10))
def test_interval_contains_its_mean(values):
    interval = mean_interval(values)
    assert interval.low <= interval.mean <= interval.high
    assert interval.count == len(values)


def test_paired_difference_uses_common_seeds_only():
    difference = paired_difference({0: 11.0, 1: 21.0, 2: 99.0}, {0: 10.0, 1: 20.0, 7: 0.0})
    assert difference is not None
    assert (difference.mean, difference.low, difference.high, difference.count) == (1.0, 1.0, 1.0, 2)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_relative_change_is_of_the_means_so_long_seeds_weigh_more():
    change = relative_change({0: 5.0, 1: 270.0, 2: 1.0}, {0: 10.0, 1: 300.0})
    assert change is not None
    assert change.mean == pytest.approx(-35 / 310), "not the mean of -50 % and -10 %"
    assert change.count == 2
    assert relative_change({0: 1.0}, {1: 1.0}) is None, "no common seed"
    assert relative_change({0: 1.0}, {0: 0.0}) is None, "nothing to be relative to"


def test_interval_of_a_relative_change_by_hand():
    """Means 5 and 10, so ratio 1/2; what is left is 1, -1, 0 with s = 1; half is 4.3027 · 1 / (10 · √3)."""
    change = relative_change({0: 5.0, 1: 4.0, 2: 6.0}, {0: 8.0, 1: 10.0, 2: 12.0})
    assert change is not None
    assert (change.mean, change.half) == pytest.approx((-0.5, 4.302653 / (10 * 3**0.5)))


@given(st.lists(st.floats(1.0, 1e6), min_size=2, max_size=10), st.floats(0.1, 10.0))
def test_a_change_that_is_the_same_in_every_seed_is_exact_however_much_seeds_differ(baseline, factor):
    theirs = dict(enumerate(baseline))
    change = relative_change({seed: factor * value for seed, value in theirs.items()}, theirs)
    assert change is not None
    assert (change.mean, change.low, change.high) == pytest.approx((factor - 1,) * 3, abs=1e-9)


@pytest.mark.parametrize("seeds", [3, 5, 16])
def test_the_interval_of_a_relative_change_holds_the_truth_19_times_in_20(seeds):
    """Latencies that seeds raise for both policies alike: 4,000 experiments, so the share is known to about 1 %."""
    rng = np.random.default_rng(seeds)
    held = 0
    for _ in range(4000):
        baseline = rng.normal(100.0, 20.0, seeds)
        values = 0.8 * baseline + rng.normal(0.0, 5.0, seeds)
        change = relative_change(dict(enumerate(values)), dict(enumerate(baseline)))
        assert change is not None
        held += change.low <= -0.2 <= change.high
    assert held / 4000 == pytest.approx(0.95, abs=0.015)
