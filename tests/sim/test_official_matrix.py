"""TokenCake's port against its authors' measurements: bounds that must hold, not targets tuned for."""

import csv
import os
from pathlib import Path
from typing import get_args

import pytest

from tokencake.experiments.arguments import exit_code
from tokencake.experiments.official_matrix import MEASURED, changes, run, simulated
from tokencake.policies.tokencake_upstream import Mode

MODES = get_args(Mode)
REORDERING = ("agent", "agent_offload")
"""Modes in which mean latencies scatter by 3 to 7 % from seed to seed; makespans do not."""


def means(seeds_where_reordered):
    """Makespan and mean latency of all cells, means over the seeds."""
    cells = {}
    for qps, mode in MEASURED:
        seeds = seeds_where_reordered if mode in REORDERING else 2
        runs = [simulated(qps, mode, seed)[:2] for seed in range(seeds)]
        cells[qps, mode] = [sum(values) / seeds for values in zip(*runs, strict=True)]
    return cells


def check_order_and_gains(cells, qps, quantity):
    """The modes stand in the measured order, and their gains over stock vLLM are off by at most 5 points."""
    found = {mode: cells[qps, mode][quantity] for mode in MODES}
    measured = {mode: MEASURED[qps, mode][quantity] for mode in MODES}
    if (qps, quantity) != (0.2, 1):  # measured 448.8 and 467.9 s: closer than seeds are
        assert sorted(found, key=found.__getitem__) == sorted(measured, key=measured.__getitem__)
    for mode in MODES[1:]:
        gain, published = (1 - values[mode] / values["base"] for values in (found, measured))
        assert gain == pytest.approx(published, abs=0.05)


@pytest.fixture(scope="module")
def cells():
    return means(4)


@pytest.fixture(scope="module")
def many():
    return means(16)


def test_changes_of_what_was_measured_are_the_measured_ones():
    """Both columns say the same, and draws of 1 and 3 times the values are known for sure: the ratio never varies."""
    played = {cell: [values, tuple(3 * value for value in values)] for cell, values in MEASURED.items()}
    lines = changes(played).splitlines()
    assert lines[-1] == "| 1.0 | agent_offload | -34.2 | -34.2 ± 0.0 | -39.2 | -39.2 ± 0.0 |"
    assert len(lines) == 2 + 6


@pytest.mark.parametrize("cell", MEASURED, ids=str)
def test_cells(cells, cell):
    """Makespan within 5 %, mean program latency within 10 %."""
    for value, measured, bound in zip(cells[cell], MEASURED[cell], (0.05, 0.10), strict=False):
        assert value == pytest.approx(measured, rel=bound)


@pytest.mark.parametrize("qps", [0.2, 1.0])
def test_order_and_gains_by_makespan(cells, qps):
    check_order_and_gains(cells, qps, 0)


@pytest.mark.slow
@pytest.mark.parametrize("qps", [0.2, 1.0])
def test_order_and_gains_by_mean_latency(many, qps):
    check_order_and_gains(many, qps, 1)


def test_launches_differ_where_step_times_scatter():
    """A seed is a launch: the same one again is the same, and another one than without scatter."""
    launch, again = (simulated(1.0, "agent", 0, scatter=0.02) for _ in range(2))
    assert launch == again
    assert launch[1] != simulated(1.0, "agent", 0)[1]


def test_the_frozen_profile_gains_nothing():
    """The authors measured 1,363 s for vLLM and 1,379 s for the port: no gain, and neither is there one here."""
    base, port = (simulated(1.0, mode, 0, "frozen")[0] for mode in ("base", "agent_offload"))
    assert base == pytest.approx(1363, rel=0.03)
    assert port == pytest.approx(1379, rel=0.05)
    assert port > base


def test_the_measurements_are_the_published_ones():
    """The constants are the published file's columns."""
    shared = Path(os.environ.get("TOKENCAKE_SHARED", Path(__file__).parents[2].parent / "shared"))
    path = shared / "reference" / "official_matrix.csv"
    if not path.exists():
        pytest.skip("the published matrix lies in the folder of recorded inputs, which is absent")
    with path.open() as file:
        rows = {(float(row["qps"]), row["mode"]): row for row in csv.DictReader(file)}
    names = ("total_e2e_s", "avg_app_latency_s", "p95_app_latency_s")
    waits = ("critical_wait_observed_max_s", "critical_wait_ge_60s")
    for cell, measured in MEASURED.items():
        assert measured[:3] == pytest.approx([float(rows[cell][name]) for name in names], abs=0.01)
        if "agent" in cell[1]:
            assert measured[14:16] == pytest.approx([float(rows[cell][name]) for name in waits], abs=0.05)
            assert measured[16] == pytest.approx(float(rows[cell]["generation_capacity_denied"]) / 1e3, abs=0.1)
            assert measured[17] == float(rows[cell]["reservation_denied"])


@pytest.mark.parametrize("words", [["much"], ["1.5"], ["-1"], ["0", "1"]], ids=" ".join)
def test_a_bad_word_is_one_line(words, capsys):
    assert exit_code(lambda: run(words)) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_runs_nothing(capsys):
    with pytest.raises(SystemExit, match="0"):
        run(["--help"])
    assert "scatter" in capsys.readouterr().out
