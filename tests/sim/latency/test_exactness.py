"""What every latency model promises: whole picoseconds, exact cells, honest counting."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokencake.sim.latency.base import UNBOUNDED, LatencyModel, MeasuredRange, RangeCounter, Scale
from tokencake.sim.latency.linear import LinearCoefficients, LinearLatency
from tokencake.sim.latency.profiles import load_profile
from tokencake.sim.latency.roofline import RooflineLatency
from tokencake.sim.latency.table import LatencyTable, TableLatency

NAMES = ["linear", "roofline", "table", "table scaled"]
SCALE = Scale.of(prefill_factor=0.937, decode_factor=1.043, overhead_us=412.5)
LIMIT = MeasuredRange(decodes=20, decode_context=900, decode_context_sum=9000, step_tokens=64, prefill_length=1000)

decodes = st.integers(1, 1500)
contexts = st.integers(0, 3_000_000)
chunks = st.lists(st.tuples(st.integers(1, 20_000), st.integers(0, 300_000)), max_size=4)


@cache
def table() -> LatencyTable:
    spec = load_profile("a800-qwen2.5-14b").latency
    assert spec.file is not None
    return LatencyTable.read(spec.file)


@cache
def model(name: str) -> LatencyModel:
    if name == "linear":
        return LinearLatency(LinearCoefficients(3469, 75.1, 0.0594, 12, 127, 0.597), SCALE)
    if name == "roofline":
        profile = load_profile("h100-llama-3.1-8b")
        assert profile.gpu is not None
        return RooflineLatency(profile.model, profile.gpu, None, SCALE)
    return TableLatency(table(), SCALE if name == "table scaled" else None)


@pytest.mark.parametrize("name", NAMES)
@given(prefill=chunks, calls=st.integers(0, 1500), context=contexts)
def test_a_step_is_a_whole_number_of_picoseconds(name, prefill, calls, context):
    time = model(name).step_ps(prefill, calls, context if calls else 0)
    assert type(time) is int
    assert time >= 0


@pytest.mark.parametrize("name", NAMES)
@given(calls=decodes, context=contexts, data=st.data())
def test_a_cell_is_the_step_at_every_context(name, calls, context, data):
    start, slope, end = model(name).decode_cell(calls, context)
    assert type(slope) is int
    assert slope >= 0
    assert end > context
    last = min(end - 1, context + 10**7)
    for inside in {context, last, data.draw(st.integers(context, last))}:
        assert model(name).step_ps((), calls, inside) == start + slope * (inside - context)


@pytest.mark.parametrize("name", NAMES)
@given(calls=decodes, context=contexts)
def test_pieces_meet(name, calls, context):
    start, slope, end = model(name).decode_cell(calls, context)
    if end < UNBOUNDED:
        assert model(name).decode_ps(calls, end) == start + slope * (end - context)


@pytest.mark.parametrize("name", NAMES)
@given(prefill=chunks.filter(bool), calls=st.integers(0, 1500), context=contexts, data=st.data())
def test_more_tokens_never_cost_less(name, prefill, calls, context, data):
    context = context if calls else 0
    i = data.draw(st.integers(0, len(prefill) - 1))
    new, before = prefill[i]
    longer = [*prefill[:i], (new + data.draw(st.integers(0, 500)), before), *prefill[i + 1 :]]
    later = [*prefill[:i], (new, before + data.draw(st.integers(0, 50_000))), *prefill[i + 1 :]]
    time = model(name).step_ps(prefill, calls, context)
    assert model(name).step_ps(longer, calls, context) >= time
    assert model(name).step_ps(later, calls, context) >= time
    assert model(name).step_ps(prefill[1:], calls, context) <= time
    if calls:
        assert model(name).step_ps(prefill, calls, context + data.draw(st.integers(0, 50_000))) >= time


@pytest.mark.parametrize("name", NAMES)
@given(calls=st.integers(1, 1500), mean=st.integers(1, 200_000))
def test_one_more_call_with_the_same_context_never_costs_less(name, calls, mean):
    rounding_ps = 1_000_000  # slopes are whole picoseconds per token
    fewer = model(name).decode_ps(calls, calls * mean)
    assert model(name).decode_ps(calls + 1, (calls + 1) * mean) >= fewer - rounding_ps


@pytest.mark.parametrize("name", NAMES)
@given(new=st.integers(1, 20_000), before=st.integers(0, 300_000), calls=decodes, context=contexts)
def test_the_cost_model_is_the_step(name, new, before, calls, context):
    assert model(name).prefill_ps(new, before) == model(name).step_ps([(new, before)], 0, 0)
    assert model(name).decode_ps(calls, context) == model(name).step_ps((), calls, context)


@given(steps=st.integers(1, 60), calls=st.integers(1, 80), context=st.integers(0, 20_000))
def test_a_jump_counts_like_the_loop(steps, calls, context):
    looped, jumped = RangeCounter(LIMIT), RangeCounter(LIMIT)
    for i in range(steps):
        looped.step((), calls, context + i * calls)
    jumped.jump(steps, calls, context)
    assert jumped.counts() == looped.counts()


@given(prefill=chunks, calls=st.integers(0, 1500), context=contexts)
def test_a_table_counts_what_the_counter_counts(prefill, calls, context):
    context = context if calls else 0
    latency, counter = TableLatency(table()), RangeCounter(table().measured)
    latency.step_ps(prefill, calls, context)
    counter.step(prefill, calls, context)
    assert latency.outside() == counter.counts()


def test_each_dimension_is_counted_once_a_step():
    counter = RangeCounter(LIMIT)
    counter.step([(30, 10), (30, 980)], 10, 9001)
    assert counter.counts() == {"decodes": 0, "decode_context": 1, "step_tokens": 1, "prefill_length": 1}
    counter.step((), 21, 100)
    assert counter.counts() == {"decodes": 1, "decode_context": 1, "step_tokens": 1, "prefill_length": 1}


def test_asking_for_a_cost_counts_nothing():
    latency = TableLatency(table())
    latency.prefill_ps(20_000, 300_000)
    latency.decode_ps(2000, 10**9)
    latency.decode_cell(2000, 10**9)
    assert not any(latency.outside().values())


@pytest.mark.parametrize("name", NAMES)
def test_models_are_latency_models(name):
    assert isinstance(model(name), LatencyModel)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("prefill_factor", 0, "prefill_factor must be > 0, got 0"),
        ("decode_factor", -1.5, "decode_factor must be > 0, got -1.5"),
        ("overhead_us", -1, "overhead_us must be >= 0, got -1"),
        ("prefill_factor", float("nan"), "prefill_factor must be > 0, got nan"),
    ],
)
def test_a_bad_scale_is_refused(field, value, rule):
    with pytest.raises(ValueError, match=rule):
        Scale.of(**{field: value})
