"""The documentation names every key of a run and every column of its results, and no other."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from tokencake.experiments.agreement import Row
from tokencake.experiments.cli import main
from tokencake.experiments.columns import STEPS, TABLES
from tokencake.experiments.comparison import METRICS
from tokencake.experiments.keys import flatten
from tokencake.experiments.plots import FIGURES
from tokencake.experiments.tables import FILES
from tokencake.sim import records

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "metrics.md").read_text(encoding="utf-8")


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


def first_column(title):
    rows = re.findall(r"^\| (`.*?`) \|", section(title), flags=re.M)
    return [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]


def test_columns_of_predicted_against_measured_are_documented():
    assert first_column("Predicted against measured") == [field.name for field in fields(Row)]


def test_figures_are_documented():
    assert set(first_column("Figures")) == {*FIGURES, *FILES}


def test_keys_are_documented_with_their_defaults(capsys):
    assert main(["run", "--cfg", "job"]) == 0
    keys = flatten(yaml.safe_load(capsys.readouterr().out))
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w.]+)` \| `([^`]*)` \|", page, flags=re.M))
    chosen = ("policy.name", "trace.source")  # what policy= and trace= set
    assert {key: str(yaml.safe_load(value)) for key, value in rows.items()} == {
        key: str(value) for key, value in keys.items() if key not in chosen
    }
