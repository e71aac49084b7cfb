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
    difference = paired_difference({0: 5.0, 1: 270.0}, {0: 10.0, 1: 300.0})
    assert change is not None
    assert difference is not None
    assert change.mean == pytest.approx(-35 / 310), "not the mean of -50 % and -10 %"
    assert (change.low, change.high, change.count) == (difference.low / 155, difference.high / 155, 2)
    assert relative_change({0: 1.0}, {1: 1.0}) is None, "no common seed"
    assert relative_change({0: 1.0}, {0: 0.0}) is None, "nothing to be relative to"
