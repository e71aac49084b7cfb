"""`resume=true`: what is there of a sweep that was stopped is kept, if it is what is asked for."""

import json
import shutil
import sys

import pytest

from commands import BROKEN, SWEEP, files, refused
from tokencake.experiments.cli import main

pytestmark = pytest.mark.usefixtures("empty_directory")


def without_times(directory):
    return {name: content for name, content in files(directory).items() if not name.endswith("timing.json")}


@pytest.mark.parametrize("left", ["stopped", "killed", "interrupted", "whole"])
def test_a_sweep_goes_on_where_it_was_stopped(left, tmp_path, change_summary, capsys):
    """What is there is kept; the bytes are those of a sweep that was never stopped."""
    words = [*SWEEP, "seed=range(2)", "out=s"]
    assert main(words) == 0
    whole = without_times(tmp_path / "s")
    last = tmp_path / "s" / "vllm-priority_seed-1"
    if left in ("stopped", "killed"):
        shutil.rmtree(last)
        (tmp_path / "s" / "sweep.csv").unlink()
    if left == "killed":  # without a chance to clean up
        (tmp_path / "s" / ".vllm-priority_seed-1.h3k").mkdir()
        (tmp_path / "s" / ".vllm_seed-1.failed").write_text('{"said": "x", "traceback": ""}')
    if left == "interrupted":
        change_summary(last, interrupted=True)
    before = (tmp_path / "s" / "vllm_seed-0" / "timing.json").stat().st_mtime_ns
    capsys.readouterr()
    assert main([*words, "resume=true"]) == 0
    captured = capsys.readouterr()
    kept = 4 if left == "whole" else 3
    assert f"kept {kept} of 4 jobs" in captured.err
    assert captured.out.count(" -> s/") == 4 - kept
    assert without_times(tmp_path / "s") == whole
    assert (tmp_path / "s" / "vllm_seed-0" / "timing.json").stat().st_mtime_ns == before


def test_a_sweep_grows_by_more_draws(tmp_path, capsys):
    assert main([*SWEEP, "seed=range(2)", "out=s"]) == 0
    assert main([*SWEEP, "seed=range(3)", "out=s", "resume=true"]) == 0
    assert "kept 4 of 6 jobs" in capsys.readouterr().err
    assert main([*SWEEP, "seed=range(3)", "out=t"]) == 0
    for name in ("sweep.json", "sweep.csv", "sweep.md", "paired.csv"):
        assert (tmp_path / "s" / name).read_bytes() == (tmp_path / "t" / name).read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["seed=range(2)", "engine.gpu_blocks=90"],
            "s/vllm_seed-0 holds another run (engine.gpu_blocks was 119, not 90)",
        ),
        (["seed=range(1)"], "s/vllm-priority_seed-1 is no job of this sweep"),
        (["seed=range(2)", "overwrite=true"], "resume=true: keeps what overwrite=true replaces"),
    ],
    ids=["another configuration", "fewer jobs", "overwrite"],
)
def test_what_is_not_of_this_sweep_is_never_kept_in_silence(words, said, tmp_path, capsys):
    assert main([*SWEEP, "seed=range(2)", "out=s"]) == 0
    before = files(tmp_path / "s")
    capsys.readouterr()
    assert said in refused(capsys, *SWEEP, *words, "out=s", "resume=true")
    assert files(tmp_path / "s") == before


def test_a_trace_that_changed_is_another_run(tmp_path, capsys):
    head = "arrived_at,num_prefill_tokens,num_decode_tokens\n"
    words = ["+experiment=tiny", "trace.path=list.csv", "out=a", "resume=true"]
    (tmp_path / "list.csv").write_text(f"{head}0.5,100,10\n")
    assert main(["run", *words]) == 0
    assert main(["run", *words]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "kept, as it finished before: a"
    (tmp_path / "list.csv").write_text(f"{head}0.5,100,11\n")
    assert "a holds a run of another trace" in refused(capsys, "run", *words)


@pytest.mark.parametrize("compose", [False, True], ids=["class", "part"])
@pytest.mark.parametrize("changed", ["class", "base"])
def test_code_that_changed_is_another_run(changed, compose, tmp_path, monkeypatch, capsys):
    """The user's own class, and one of another module of theirs that it inherits from; both may be parts."""
    monkeypatch.syspath_prepend(tmp_path)
    names = {"base": f"base_{changed}_{compose}", "class": f"own_{changed}_{compose}"}
    sources = {"base": BROKEN, "class": f"from {names['base']} import Fails\n\n\nclass Own(Fails):\n    pass\n"}
    for which, name in names.items():
        (tmp_path / f"{name}.py").write_text(sources[which])
    target = f"{names['class']}:Own"
    policy = ["policy=compose", f"policy.order={target}"] if compose else [f"policy={target}"]
    words = ["run", "-m", *SWEEP[2:5], *policy, "seed=0,1", "out=s", "resume=true"]
    assert main(words) == 0
    assert main(words) == 0
    assert "kept 2 of 2 jobs" in capsys.readouterr().err
    code = json.loads(next((tmp_path / "s").glob("*/summary.json")).read_text())["policy_code"]
    assert set(code) == set(names.values())
    (tmp_path / f"{names[changed]}.py").write_text(sources[changed] + "\n\nmore = 1\n")
    assert main(words) == 0, "what was imported before is what would run"
    capsys.readouterr()
    for name in names.values():
        monkeypatch.delitem(sys.modules, name)
    line = refused(capsys, *words)
    assert f"resume=true: {names[changed]} has changed since s/" in line
    assert line.endswith(" ran; overwrite=true runs it again\n")


@pytest.mark.parametrize("sweep", [True, False])
def test_to_go_on_in_a_strangers_directory_is_refused(sweep, tmp_path, capsys):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.tex").write_text("precious")
    words = SWEEP if sweep else ("run", *SWEEP[2:5])
    assert f"s holds no {'sweep' if sweep else 'run'}" in refused(capsys, *words, "out=s", "resume=true")
    assert "needs out=DIRECTORY" in refused(capsys, *words, "resume=true")
    assert [p.name for p in tmp_path.rglob("*")] == ["s", "thesis.tex"]
