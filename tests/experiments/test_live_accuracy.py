"""Which commands `python -m tokencake.experiments.live_accuracy` gives; the commands themselves are played."""

import json

import pytest
import yaml

from commands import files
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
            (tmp_path / words[1]).write_text("calibration: {jitter: 0.1, drift: 0.05, drift_s: 4, seconds: 30.0}")
        if words[0] == "run":
            write_runs(tmp_path / next(word[4:] for word in words if word.startswith("out=")), words)
        return 0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(live_accuracy, "main", play)
    monkeypatch.setattr(live_accuracy, "SETTINGS", {"small": live_accuracy.Setting(POLICIES, ("trace.qps=1",))})
    return given


def write_runs(out, words):
    assert "resume=true" in words
    jobs = []
    for policy in listed(words, "policy"):
        for repeat in listed(words, "live.repeat"):
            for draw in listed(words, "hardware.draw"):
                name = f"{policy}_{repeat}_{draw}" if "-m" in words else "."
                jobs.append(name)
                if (out / name / "summary.json").exists():
                    continue
                (out / name).mkdir(parents=True, exist_ok=True)
                tokens = {"gpu_hit": 5, "cpu_hit": 0}
                (out / name / "summary.json").write_text(json.dumps({"policy": policy, "prefill_tokens": tokens}))
                (out / name / "config.yaml").write_text(yaml.safe_dump({"live": {"repeat": int(repeat)}}))
    if "-m" in words:
        (out / "sweep.json").write_text(json.dumps({"jobs": jobs, "choices": [{}] * len(jobs)}))


def kinds(given):
    return [words[0] if words[0] != "run" else next(w for w in words if w.startswith("host=")) for words in given]


MEASURED = ["calibrate", "host=live"] * len(POLICIES)
PREDICTED = ["host=sim", "host=sim"] * len(POLICIES)
COMPARED = ["compare", "compare"]


def test_every_stage_is_done_once(commands, tmp_path):
    live_accuracy.run(["out", "--turns=2", "--draws=3"])
    assert kinds(commands) == [*MEASURED, *PREDICTED, *MEASURED, *PREDICTED, *COMPARED]
    commands.clear()
    before = files(tmp_path)
    live_accuracy.run(["out", "--turns=2", "--draws=3"])
    again = [kind for kind in MEASURED if kind != "calibrate"]
    assert kinds(commands) == [*again, *PREDICTED, *again, *PREDICTED, *COMPARED]
    assert files(tmp_path) == before


def test_a_run_is_predicted_from_the_calibration_right_before_it(commands):
    live_accuracy.run(["out", "--turns=2", "--draws=3"])
    scatter = {"hardware.jitter=0.1", "hardware.drift=0.05", "hardware.drift_s=4", "hardware.draw=range(3)"}
    for turn in range(2):
        for policy in POLICIES:
            place = f"turn-{turn}/{policy}"
            about = [words for words in commands if any(word.endswith((place, f"{place}.yaml")) for word in words[1:])]
            calibrate, live, predicted, replayed = about
            assert calibrate[1] == f"out/small/profiles/{place}.yaml"
            assert commands.index(live) == commands.index(calibrate) + 1
            for words in (live, predicted, replayed):
                assert {f"policy={policy}", f"hardware.profile={calibrate[1]}"} <= set(words)
            assert scatter <= set(predicted)
            assert f"hardware.recorded=out/small/live/{place}" in replayed
            assert all(f"live.repeat={turn}" in words for words in (live, predicted, replayed)), "compared by turns"


@pytest.mark.parametrize("what", ["missing", "interrupted"])
def test_a_run_that_was_ended_early_begins_anew(what, commands, tmp_path):
    """With its calibration, and without predictions from the one before."""
    live_accuracy.run(["out", "--turns=2"])
    commands.clear()
    small = tmp_path / "out" / "small"
    summary = small / "live" / "turn-1" / "vllm-priority" / "summary.json"
    if what == "missing":
        summary.unlink()
    else:
        summary.write_text(json.dumps(json.loads(summary.read_text()) | {"interrupted": True}))
    profile = small / "profiles" / "turn-1" / "vllm-priority.yaml"
    profile.write_text("old")
    places = [f"{name}/turn-1/{policy}" for name in ("sim", "replayed") for policy in POLICIES]
    for place in places:
        (small / place / "old").write_text("old")
    live_accuracy.run(["out", "--turns=2"])
    again = [kind for kind in MEASURED if kind != "calibrate"]
    assert kinds(commands) == [*again, *PREDICTED, *again[:-1], "calibrate", again[-1], *PREDICTED, *COMPARED]
    left = sorted(str(p.parent.relative_to(small)) for p in small.rglob("*") if p.name == "old")
    assert left == [place for place in sorted(places) if not place.endswith("priority")]
    assert profile.read_text() != "old"


def test_measurements_that_were_made_otherwise_are_not_mixed_in(commands, tmp_path, capsys):
    live_accuracy.run(["out", "--turns=2"])
    commands.clear()
    assert exit_code(lambda: live_accuracy.run(["out", "--turns=2", "--seconds=60"])) == 2
    told = "--seconds 60: out/small/profiles/turn-0/vllm.yaml was measured for 30 s"
    assert told in capsys.readouterr().err
    assert not commands
    live_accuracy.run(["out", "--turns=1"])
    *_, predicted, recorded = commands
    assert predicted[1:3] == ("out/small/live/turn-0", "out/small/sim/turn-0"), "of the turns that were asked for"
    assert recorded[1:3] == ("out/small/live/turn-0", "out/small/replayed/turn-0")


def test_more_draws_are_more_draws(commands, tmp_path):
    """Of what was simulated, too; what is there already is known by `resume=true`, which refuses what differs."""
    live_accuracy.run(["out", "--turns=1", "--draws=2"])
    live_accuracy.run(["out", "--turns=1", "--draws=3"])
    summaries = (tmp_path / "out" / "small" / "sim").rglob("summary.json")
    assert len(list(summaries)) == 3 * len(POLICIES)


def test_a_command_that_failed_ends_it(commands, monkeypatch):
    monkeypatch.setattr(live_accuracy, "main", lambda words: 2)
    with pytest.raises(SystemExit, match="2"):
        live_accuracy.run(["out"])


@pytest.mark.parametrize("words", [["out", "--draws=few"], ["out", "--setting=smal"], []], ids=" ".join)
def test_a_bad_word_is_one_line(words, commands, capsys):
    assert exit_code(lambda: live_accuracy.run(words)) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not commands
