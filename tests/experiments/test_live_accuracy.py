"""Which commands `python -m tokencake.experiments.live_accuracy` gives; the commands themselves are played."""

import json
import shutil

import pytest
import yaml

from tokencake.experiments import live_accuracy
from tokencake.experiments.arguments import exit_code

POLICIES = ("vllm", "vllm-priority")


def listed(words, key):
    """Values of a swept key."""
    text = next((word.partition("=")[2] for word in words if word.startswith(f"{key}=")), "0")
    return range(int(text[6:-1])) if text.startswith("range(") else text.split(",")


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """The commands that were given; each leaves what the real one would."""
    given = []

    def play(words):
        given.append(words)
        if words[0] == "calibrate":
            (tmp_path / words[1]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / words[1]).write_text("calibration: {step_error: 0.1}")
        if words[0] == "run":
            write_runs(tmp_path / next(word[4:] for word in words if word.startswith("out=")), words)
        return 0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(live_accuracy, "main", play)
    monkeypatch.setattr(live_accuracy, "SETTINGS", {"small": live_accuracy.Setting(POLICIES, ("trace.qps=1",))})
    return given


def write_runs(out, words):
    if out.exists():
        assert "overwrite=true" in words
        shutil.rmtree(out)
    jobs = []
    for policy in listed(words, "policy"):
        for repeat in listed(words, "live.repeat"):
            for draw in listed(words, "hardware.draw"):
                name = f"{policy}_{repeat}_{draw}" if "-m" in words else "."
                jobs.append(name)
                (out / name).mkdir(parents=True)
                tokens = {"gpu_hit": 5, "cpu_hit": 0}
                (out / name / "summary.json").write_text(json.dumps({"policy": policy, "prefill_tokens": tokens}))
                (out / name / "config.yaml").write_text(yaml.safe_dump({"live": {"repeat": int(repeat)}}))
    if "-m" in words:
        (out / "sweep.json").write_text(json.dumps({"jobs": jobs}))


def kinds(given):
    return [words[0] if words[0] != "run" else next(w for w in words if w.startswith("host=")) for words in given]


def test_every_stage_is_done_once(commands):
    live_accuracy.run(["out", "--turns=2", "--draws=3"])
    compared = ["compare", "compare"]
    turn = ["calibrate", "host=live", "host=sim", *["host=sim"] * len(POLICIES)]
    assert kinds(commands) == [*turn, *turn, *compared]
    assert "hardware.draw=range(3)" in commands[2]
    for number in range(2):  # a turn is predicted from its own calibration
        profile = f"hardware.profile=out/small/profiles/turn-{number}.yaml"
        assert all(profile in words for words in commands[number * len(turn) + 1 : (number + 1) * len(turn)])
    commands.clear()
    live_accuracy.run(["out", "--turns=2", "--draws=3"])
    assert kinds(commands) == compared


@pytest.mark.parametrize("stage", ["live/turn-0", "sim/turn-1"])
@pytest.mark.parametrize("what", ["missing", "interrupted"])
def test_a_stage_that_did_not_get_to_its_end_is_done_again(stage, what, commands, tmp_path):
    live_accuracy.run(["out", "--turns=2"])
    commands.clear()
    summary = next((tmp_path / "out" / "small" / stage).glob("vllm-priority_*/summary.json"))
    if what == "missing":
        summary.unlink()
    else:
        summary.write_text(json.dumps(json.loads(summary.read_text()) | {"interrupted": True}))
    live_accuracy.run(["out", "--turns=2"])
    replays = ["host=sim"] * len(POLICIES) if stage == "live/turn-0" else []
    assert kinds(commands) == [f"host={stage[:4].rstrip('/')}", *replays, "compare", "compare"]
    assert {f"out=out/small/{stage}", "overwrite=true"} <= set(commands[0])


def test_a_command_that_failed_ends_it(commands, monkeypatch):
    monkeypatch.setattr(live_accuracy, "main", lambda words: 2)
    with pytest.raises(SystemExit, match="2"):
        live_accuracy.run(["out"])


@pytest.mark.parametrize("words", [["out", "--draws=few"], ["out", "--setting=smal"], []], ids=" ".join)
def test_a_bad_word_is_one_line(words, commands, capsys):
    assert exit_code(lambda: live_accuracy.run(words)) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not commands
