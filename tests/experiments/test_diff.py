"""`tokencake diff`: equal runs, the first difference, and what is no run."""

import pytest

from tokencake.experiments.cli import main

SMALL = ["+experiment=tiny", "trace=demo", "trace.programs_count=3", "log.decisions=true"]


@pytest.fixture
def runs(tmp_path):
    """Run directories: the same policy twice, and another one."""
    made = {}
    for name, policy in (("a", "continuum"), ("b", "continuum"), ("c", "autellix")):
        made[name] = str(tmp_path / name)
        assert main(["run", f"policy={policy}", *SMALL, f"out={made[name]}"]) == 0
    return made


def test_equal_runs(runs, capsys):
    capsys.readouterr()
    assert main(["diff", runs["a"], runs["b"]]) == 0
    assert capsys.readouterr().out.startswith("equal: ")


def test_the_first_difference_is_named_with_what_both_saw(runs, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["diff", runs["a"], runs["c"]])
    assert ended.value.code == 1
    shown = capsys.readouterr().out
    assert "differs" in shown
    assert shown.count("waiting") == shown.count("gpu_free") == 2


def test_a_run_without_a_log_is_one_line(tmp_path, capsys):
    assert main(["diff", str(tmp_path), str(tmp_path)]) == 2
    assert "log.decisions=true" in capsys.readouterr().err
