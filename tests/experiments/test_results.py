import hashlib

import pytest

from tokencake.experiments.columns import TABLES
from tokencake.experiments.errors import UsageError
from tokencake.experiments.results import Run, check_free, find_runs, read_lines_zst, replacing

FILES = {"config.yaml", "overrides.yaml", "summary.json", "timing.json", "decisions.jsonl.zst", "timeline.json.gz"}


def names(directory):
    return sorted(p.name for p in directory.iterdir())


def digests(directory):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in directory.iterdir()}


def test_a_run_directory_is_complete_and_equal_runs_are_equal_bytes(fake_run):
    one, two = fake_run("a", out="same"), fake_run("b", out="same")
    assert set(digests(one)) == FILES | {f"{name}.parquet" for name in TABLES}
    assert digests(one) == digests(two)


def test_tables_have_the_documented_columns_and_types(fake_run):
    run = Run(fake_run("a"))
    for name, types in TABLES.items():
        assert list(run.table(name).columns) == list(types)
    assert run.table("transfers")["finish_s"].isna().tolist() == [False, False, True]
    assert [row["kind"] for row in read_lines_zst(run.path / "decisions.jsonl.zst")] == ["admit", "victim"]


def test_a_failure_leaves_nothing_behind_and_the_old_run_untouched(fake_run, tmp_path):
    old = fake_run("a")
    before = digests(old)
    with pytest.raises(RuntimeError), replacing(old, overwrite=True) as directory:
        (directory / "half").write_text("x")
        raise RuntimeError
    assert digests(old) == before
    assert names(tmp_path) == ["a"]


def test_overwriting_replaces_the_whole_directory(fake_run, tmp_path):
    old = fake_run("a")
    (old / "notes.txt").write_text("mine")
    with replacing(old, overwrite=True) as directory:
        (directory / "summary.json").write_text("{}")
    assert names(old) == ["summary.json"]
    assert names(tmp_path) == ["a"]


def test_a_directory_in_use_is_refused(fake_run):
    with pytest.raises(UsageError, match="overwrite=true"):
        check_free(fake_run("a"), overwrite=False)


def test_a_strangers_directory_is_never_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="not a run or sweep directory"):
        check_free(tmp_path, overwrite=True)


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="not a directory"):
        check_free(tmp_path / "file", overwrite=True)
    with pytest.raises(UsageError, match="not a writable directory"):
        check_free(tmp_path / "file" / "below", overwrite=False)


def test_runs_are_found_in_order(fake_sweep):
    runs = find_runs([fake_sweep])
    assert len(runs) == 36
    assert [r.path.name for r in runs[:5]] == [f"vllm_0.2_{i}" for i in range(4)] + ["vllm_0.5_0"]


@pytest.mark.parametrize(("name", "rule"), [("absent", "no such directory"), ("empty", "holds no run")])
def test_a_directory_without_runs_is_one_clear_line(tmp_path, name, rule):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=rule):
        find_runs([tmp_path / name])


def test_a_broken_summary_is_one_clear_line(fake_run):
    run = Run(fake_run("a"))
    (run.path / "summary.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        run.summary  # noqa: B018
