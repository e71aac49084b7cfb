import pytest

from tokencake.experiments import tables
from tokencake.experiments.comparison import aggregate, collect, paired
from tokencake.experiments.results import Run, find_runs


@pytest.fixture
def comparison(fake_sweep):
    return collect(find_runs([fake_sweep]))


def test_what_varies_is_found(comparison):
    assert comparison.keys == ("trace.qps",)
    assert comparison.load == "trace.qps"
    assert comparison.policies == ("vllm", "vllm-priority", "vllm-offload")


def test_aggregate_averages_over_seeds(comparison):
    table = aggregate(comparison)
    assert len(table) == 9
    assert (table["seeds"] == 4).all()
    assert (table["latency_mean_s_low"] < table["latency_mean_s"]).all()
    assert table["hit_share"].tolist() == [0.75] * 9


def test_paired_differences_are_against_the_first_policy(comparison):
    table = paired(comparison)
    assert set(table["baseline"]) == {"vllm"}
    assert len(table) == 2 * 3 * 3
    assert (table["seeds"] == 4).all()


def test_policies_that_differ_by_a_parameter_get_different_labels(fake_run):
    modes = [fake_run(mode, params={"mode": mode}) for mode in ("base", "agent")]
    comparison = collect([Run(path) for path in modes])
    assert comparison.policies == ("vllm (mode=base)", "vllm (mode=agent)")


def test_one_run_has_no_interval_and_no_pairs(fake_run, tmp_path):
    comparison = collect([Run(fake_run("only"))])
    assert comparison.load is None
    assert "One seed each" in tables.markdown(comparison)
    assert [p.name for p in tables.save(comparison, tmp_path)] == ["table.csv", "table.md"]


def test_the_table_shows_every_policy_at_every_load(comparison, tmp_path, capsys):
    tables.show(comparison)
    text = capsys.readouterr().out
    assert text.count("vllm-offload") == 3
    assert "±" in text
    written = tables.save(comparison, tmp_path)
    assert [p.name for p in written] == ["table.csv", "table.md", "paired.csv"]
    assert len(written[0].read_text().splitlines()) == 10
