import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokencake.traces.percentiles import percentile


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.floats(0, 100))
def test_percentile_is_numpys(values, q):
    assert percentile(sorted(values), q) == pytest.approx(float(np.percentile(values, q)), rel=1e-9, abs=1e-6)
