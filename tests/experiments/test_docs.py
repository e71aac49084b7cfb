"""The documentation of results names every column there is, and no other."""

import re
from pathlib import Path

import pytest

from tokencake.experiments.columns import STEPS, TABLES
from tokencake.experiments.comparison import METRICS
from tokencake.sim import records

TEXT = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")


def section(title):
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


ALL = TABLES | {"steps": STEPS}


@pytest.mark.parametrize(
    ("table", "title"),
    [("programs", "Programs"), ("calls", "Calls"), ("transfers", "Transfers"), ("kv", "KV"), ("steps", "Steps")],
)
def test_columns_are_documented(table, title):
    rows = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", section(title), flags=re.M))
    assert rows == ALL[table]


@pytest.mark.parametrize("table", ["programs", "calls", "transfers", "kv", "steps"])
def test_a_host_makes_these_columns(table):
    name = {"programs": "PROGRAM", "calls": "CALL", "transfers": "TRANSFER", "kv": "KV", "steps": "STEP"}[table]
    assert getattr(records, f"{name}_COLUMNS") == tuple(ALL[table])


def test_metrics_of_the_comparison_are_documented():
    assert set(METRICS) <= set(re.findall(r"`(\w+)`", section("Comparison tables")))
