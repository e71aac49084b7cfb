"""Values worked out by hand."""

import json
from pathlib import Path

import pytest

from tokencake.sim.latency.base import MeasuredRange, Scale
from tokencake.sim.latency.grid import Curve, Grid
from tokencake.sim.latency.linear import LinearCoefficients, LinearLatency, features
from tokencake.sim.latency.roofline import Efficiency, RooflineLatency
from tokencake.sim.latency.shape import GPUSpec, ModelShape, kv_blocks
from tokencake.sim.latency.table import LatencyTable, TableLatency

US = 1_000_000  # picoseconds
QWEN = ModelShape("Qwen2.5-14B", 48, 5120, 40, 8, 128, 13824, 152064)
SMALL = ModelShape("small", 2, 8, 2, 1, 4, 16, 32)
# 1 FLOP = 1 ps and 1 byte = 10 ps
DEVICE = GPUSpec("device", 1.0, 1.0, 100.0)
FULL = Efficiency(compute=1.0, bandwidth=1.0)


def small_table() -> LatencyTable:
    return LatencyTable(
        layers=Curve((1, 4, 8), (1000, 1300, 2100)),
        head=Curve((1, 4), (100, 130)),
        prefill_attention=Grid((1, 3), (0, 10), ((10, 20), (30, 60))),
        decode_attention=Grid((1, 3), (1, 11, 21), ((5, 15, 45), (9, 39, 129))),
        measured=MeasuredRange(),
        source={},
    )


def test_linear_features():
    assert features([(3, 0), (1, 10)], 5, 70) == (1, 4, 6 + 11, 2, 5, 70)


def test_linear_step():
    model = LinearLatency(LinearCoefficients(100, 2, 0.5, 7, 3, 0.25))
    assert model.step_ps([(3, 0), (1, 10)], 5, 70) == (100 + 2 * 4 + 17 * 0.5 + 2 * 7 + 5 * 3 + 70 * 0.25) * US
    assert model.step_ps((), 0, 0) == 0
    assert model.decode_cell(5, 70)[:2] == ((100 + 15) * US + 17_500_000, 250_000)


def test_factors_split_a_step_into_decode_and_prefill_part():
    coefficients = LinearCoefficients(100, 2, 0, 0, 3, 1)
    scale = Scale.of(prefill_factor=0.5, decode_factor=2.0, overhead_us=10)
    model = LinearLatency(coefficients, scale)
    decode = 100 + 3 * 4 + 40
    assert model.step_ps((), 4, 40) == (10 + 2 * decode) * US
    assert model.step_ps([(6, 0)], 4, 40) == (10 + 2 * decode + 6) * US
    assert model.step_ps([(6, 0)], 0, 0) == (10 + 0.5 * 112) * US


def test_linear_refuses_a_negative_coefficient():
    with pytest.raises(ValueError, match="per_decode_us must be >= 0, got -1"):
        LinearCoefficients(0, per_decode_us=-1)


def test_kv_bytes_are_the_measured_ones():
    assert QWEN.kv_bytes_per_token == 196_608
    assert QWEN.weight_bytes == pytest.approx(2 * 14.77e9, rel=1e-3)


def test_derived_blocks_agree_with_the_measured_pool():
    gpu = GPUSpec("A800", 79.2, 312, 2039)
    assert kv_blocks(QWEN, gpu, block_size=16, utilization=0.5, reserve_gib=3.1) == pytest.approx(3050, rel=0.01)


def test_roofline_step():
    model = RooflineLatency(SMALL, DEVICE, FULL)
    assert SMALL.layer_parameters == 2 * (8 * 4 * 2 * 3 + 3 * 8 * 16)  # 1,152
    layers = 1152 * 2 * 10  # 2 bytes a weight, memory bound up to 10 tokens
    head = 8 * 32 * 2 * 10
    kv = SMALL.kv_bytes_per_token * 10  # 32 bytes, against 4 * 2 * 2 * 4 = 64 FLOP a pair
    assert model.step_ps((), 3, 100) == layers + head + kv * 100
    assert model.decode_cell(3, 100)[1] == kv
    tokens = 20
    pairs = tokens * 5 + tokens * 21 // 2
    assert model.prefill_ps(tokens, 5) == 2 * 1152 * tokens + head + max(64 * pairs, kv * 25)


def test_roofline_counts_nothing_outside():
    model = RooflineLatency(SMALL, DEVICE, FULL)
    model.step_ps([(10**6, 10**6)], 10**4, 10**9)
    model.note_jump(10, 1, 10**9)
    assert not any(model.outside().values())


@pytest.mark.parametrize("value", [0, 1.01])
def test_efficiency_is_a_share(value):
    with pytest.raises(ValueError, match=r"compute_efficiency must be in \(0, 1\]"):
        Efficiency(compute=value)


def test_curve_between_and_beyond_nodes():
    curve = Curve((1, 4, 8), (1000, 1300, 2100))
    assert [curve.ps(x) for x in (0, 1, 2, 4, 6, 8, 9)] == [
        0, 1_000_000, 1_100_000, 1_300_000, 1_700_000, 2_100_000, 2_300_000,
    ]  # fmt: skip


def test_table_decode_step():
    model = TableLatency(small_table())
    # two calls lie halfway between the rows: 7, 27, 87 ns at contexts 2, 22, 42
    dense = 1100 + 110
    assert [model.decode_ps(2, c) for c in (0, 2, 12, 22, 32, 42, 52)] == [
        (dense + ns) * 1000 for ns in (7, 7, 17, 27, 57, 87, 117)
    ]
    assert model.decode_cell(2, 12) == ((dense + 17) * 1000, 1000, 22)


def test_table_mixed_step():
    model = TableLatency(small_table())
    # 2 decodes + 2 new tokens after 5: the grid's middle is (10 + 20 + 30 + 60) / 4
    assert model.step_ps([(2, 5)], 2, 12) == (1300 + 120 + 17 + 30) * 1000
    assert model.prefill_ps(2, 5) == (1100 + 100 + 30) * 1000


def test_table_prefill_part_is_what_it_adds():
    model = TableLatency(small_table(), Scale.of(prefill_factor=2, decode_factor=3, overhead_us=1))
    decode, added = 1100 + 110 + 17, (1300 - 1100) + (120 - 110) + 30
    assert model.step_ps([(2, 5)], 2, 12) == 1 * US + (3 * decode + 2 * added) * 1000


def test_a_table_survives_its_file(tmp_path: Path):
    path = tmp_path / "t.json"
    path.write_text(small_table().to_json())
    assert LatencyTable.read(path) == small_table()


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("format", "other", "t.json: not a 'tokencake-latency' file of version 1"),
        ("layers", {"tokens": [1, 2]}, "t.json: layers: 'ns' is missing"),
        ("layers", {"tokens": [2, 1], "ns": [1, 2]}, "t.json: layers: an axis must hold increasing whole numbers"),
        ("head", {"calls": [1, 2], "ns": [2, 1]}, "t.json: head: times must be whole nanoseconds that never decrease"),
        ("head", {"calls": [1, 2], "ns": [1]}, "t.json: head: a row must have 2 values, got 1"),
        ("measured", {"speed": 1}, "t.json: measured: "),
        ("prefill_attention", {"new": [1, 2], "context": [1, 2], "ns": [[1, 2], [1, 2]]}, "context must start at 0"),
        ("decode_attention", {"calls": [1, 2], "context": [1, 2], "ns": [[1, 2]]}, "ns must have 2 rows, got 1"),
        ("decode_attention", {"calls": [2, 3], "context": [1, 2], "ns": [[1, 2], [1, 2]]}, "rows must start at 1"),
    ],
)
def test_a_broken_table_names_the_part(tmp_path: Path, part, value, message):
    data = json.loads(small_table().to_json()) | {part: value}
    path = tmp_path / "t.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        LatencyTable.read(path)
