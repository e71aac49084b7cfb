"""What `tokencake run` takes, and how it refuses the rest: one line, exit code 2, nothing written."""

import json
import subprocess
import sys

import pytest

from commands import TINY, refused
from tokencake.experiments.cli import main

pytestmark = pytest.mark.usefixtures("empty_directory")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["policy=vlm"], "policy=vlm: unknown policy; did you mean 'vllm'?"),
        (
            ["policy=vllm-offload", "policy.prompt_onyl=true"],
            "prompt_onyl: unknown parameter; did you mean 'prompt_only'?",
        ),
        (["policy=vllm-offload", "policy.prompt_only=maybe"], "prompt_only"),
        (["policy=custom"], "target"),
        (["policy=no_such_module:X"], "policy 'no_such_module:X': there is no module 'no_such_module'"),
        (["policy=my_module.X"], "policy=my_module.X: unknown policy; a class of your own is policy=module:Class"),
        (["policy=mine.py"], "policy=mine.py: unknown policy; a class of your own is policy=module:Class"),
        (["-m", "policy=vllm,mori", "policy.x=1"], "policy.x: no parameter of vllm, mori; known: "),
        (["-m", "trace=demo", "policy.x=1,2"], "policy.x: no parameter of vllm; known: none"),
        (["policy=compose"], "names no part"),
        (["policy=compose", "policy.order=thunderagent"], "does not decide there; it decides place"),
        (["policy=compose", "policy.place=autellix"], "needs order=autellix"),
        (["policy=continuum", "policy.info=all"], "policy.info: must be one of class_mean"),
        (["policy=vllm", "policy.info=oracle"], "policy.info: vllm asks for no duration and no length"),
        (["policy=custom", "policy.target=no_such_module:X"], "no_such_module"),
        (["trace=code_writr"], "did you mean 'code_writer'?"),
        (["trace=code_writer", "trace.qpps=1"], "did you mean 'trace.qps'?"),
        (["trace=code_writer", "trace.qps=-1"], "trace.qps must be > 0"),
        (["trace=code_writer", "trace.qps=nan"], "trace.qps: must be finite, got nan"),
        (["trace=code_writer", "trace.qps=fast"], "trace.qps: must be float, got 'fast'"),
        (["trace=code_writer", "trace.profile=froze"], "did you mean 'frozen'?"),
        (["trace=demo", "hardware=a800"], "did you mean 'a800-qwen2.5-14b'?"),
        (["trace=demo", "hardware=mine.yaml"], "unknown hardware; a file is hardware.profile=mine.yaml"),
        (["trace=my/own.jsonl.gz"], "unknown trace; a file is trace.path=my/own.jsonl.gz"),
        (["trace=demo", "hardware.profile=mine.yaml"], "mine.yaml: cannot read"),
        (["trace=demo", "engine.gpu_blocks=0"], "engine.gpu_blocks must be > 0, got 0"),
        (["trace=demo", "engine.gpu_blocks=many"], "engine.gpu_blocks: must be int, got 'many'"),
        (["trace=demo", "engine.gpu_blocks=100000000000000000000000"], "engine.gpu_blocks: must be 0 or from 1e-12"),
        (["trace=demo", "engine.cpu_gib=-1"], "engine.cpu_gib: must be >= 0"),
        (["trace=demo", "engine.versoin=0.22"], "did you mean 'engine.version'?"),
        (["trace=demo", "engine.version=0.10"], "engine.version"),
        (["trace=demo", "link.d2h_gb_s=0"], "link.d2h_gb_s must be > 0, got 0"),
        (["trace=demo", "link.d2h_gb_s=1e-300"], "link.d2h_gb_s: must be 0 or from 1e-12 to 1e+12 in magnitude"),
        (["trace=demo", "link.d2h_gb_s=inf"], "link.d2h_gb_s: must be 0 or from 1e-12 to 1e+12 in magnitude, got inf"),
        (["trace=demo", "trace.qps=1e-30"], "trace.qps: must be 0 or from 1e-12"),
        (["trace=demo", "workload.calls=sometimes"], "workload.calls"),
        (["trace=demo", "trace.arrivals=closed"], "workload.concurrency must be > 0"),
        (["trace=demo", "trace.arrivals=sometimes"], "arrivals must be one of"),
        (["trace=demo", "workload.concurrency=2", "trace.qps=0.3"], "trace.qps=0.3: without effect with workload.conc"),
        (["trace=demo", "workload.concurrency=2", "trace.arrivals=poisson"], "trace.arrivals=poisson: without effect"),
        (["trace=demo", "workload.concurrency=2", "trace.arrivals=closed", "trace.qps=1"], "trace.qps=1: without eff"),
        (["+experiment=conversations", "trace.path=x.jsonl", "workload.concurrency=2"], "(trace.arrivals=closed)"),
        (["trace.path=x.jsonl", "trace.qps=0.5"], "trace.qps=0.5: a file's programs arrive as recorded; add trace.arr"),
        (["-m", "trace.path=x.jsonl", "trace.qps=0.5,1"], "trace.qps=0.5: a file's programs arrive as recorded"),
        (["trace=demo", "trace.path=x.jsonl"], "trace.path: unknown key; a file is read where trace= names no generat"),
        (["trace=demo", "trace.seed=3"], "trace.seed: unknown key; a trace is drawn with the run's seed (seed=N)"),
        (["trace=demo", "+trace.seed=3"], "trace.seed: unknown key; a trace is drawn with the run's seed (seed=N)"),
        (["trace.path=x.jsonl", "+trace.seed=3"], "trace.seed: unknown key; a trace is drawn with the run's seed"),
        (
            ["trace=demo", "hardware.draw=3"],
            "must be 0 without hardware.jitter or hardware.drift, got 3",
        ),
        (
            ["-m", "trace=demo", "hardware.draw=range(2)"],
            "must be 0 without hardware.jitter or hardware.drift, got 1",
        ),
        (["trace=demo", "hardware.drift=0.1"], "hardware.drift_s: must be > 0 and finite with drift, got 0.0"),
        (["trace=demo", "hardware.drift_s=3"], "hardware.drift_s: must be 0 without drift, got 3"),
        (
            ["trace=demo", "hardware.recorded=x", "hardware.drift=0.1"],
            "hardware.drift: must be 0 with hardware.recorded",
        ),
        (["trace=demo", "hardware.jitter=2"], "hardware.jitter: must be >= 0 and <= 1, got 2"),
        (["trace=demo", "bounds.infinite_kv=7"], "bounds.infinite_kv: must be bool"),
        (["trace=demo", "seed=one"], "seed: must be int, got 'one'"),
        (["trace=demo", "host=smi"], "did you mean 'sim'?"),
        (["trace=demo", "sed=1"], "did you mean 'seed'?"),
        (["polcy=vllm"], "polcy: unknown key; did you mean 'policy'?"),
        (["+polcy=vllm", "trace=demo"], "polcy: unknown key; did you mean 'policy'?"),
        (["enigne.gpu_blocks=5"], "enigne.gpu_blocks: unknown key; did you mean 'engine.*'?"),
        (["zzz=1"], "zzz: unknown key; known: bounds.*, engine.*, experiment, hardware, host, link.*, "),
        (
            ["trace=demo", "+hardware.x=1"],
            "hardware.x: unknown key; known: draw, drift, drift_s, jitter, profile",
        ),
        (["trace=demo", "policy.hold=keep"], "policy.hold: unknown parameter; vllm has none"),
        (["trace=demo", "engine.gpu_block=9"], "'engine.gpu_blocks'? (or engine.cpu_blocks, engine.cpu_gib)"),
        (["experiment=tinny", "trace=demo"], "did you mean 'tiny'?"),
        (["trace=demo", "+engine.x=1"], "engine.x: unknown key"),
        (["trace=demo", "overwrite=perhaps"], "overwrite: must be true or false"),
        (["trace=demo", "+experiment=tinny"], "did you mean 'tiny'?"),
        (["trace=demo", "trace.qps=0.1,0.2"], "tokencake run -m"),
        (["trace=demo", "trace.qps=[1"], "'trace.qps=[1': not a valid override"),
        (["-m", "trace=demo", "policy=vllm,"], "'policy=vllm,': not a valid override (it ends too early: a comma"),
        (["trace=demo", "trace.qps=1)"], "not a valid override (cannot read ); close brackets and quotes"),
        (["trace=demo", "nonsense"], "neither a flag nor key=value"),
        (["--config-dir", "absent", "trace=demo"], "no such directory"),
        (["--config-dir=absent", "trace=demo"], "--config-dir absent: no such directory"),
        (["trace=demo", "--config-dir"], "no such directory"),
        (["trace=demo", "--run"], "--run: not a flag of tokencake run"),
        (["trace=demo", "--config-name=other"], "--config-name: not a flag of tokencake run"),
        (["trace=demo", "--config-path", "conf"], "--config-path: not a flag of tokencake run"),
        (["trace=demo", "--multirn"], "did you mean '--multirun'?"),
        (["trace=demo", "--cfg", "everything"], "--cfg: must be one of job, hydra, all, got 'everything'"),
        (["trace=demo", "--cfg"], "--cfg: must be one of job, hydra, all, got ''"),
        (["trace=demo", "--cfg", "job", "--info"], "Only one of"),
        (["trace=demo", "--resolve"], "--resolve"),
        ([], "trace.path: missing"),
        (["trace.path=absent.jsonl"], "absent.jsonl: no such file"),
        (["-m", "trace=demo", "out=a,b"], "out cannot be swept"),
        (["-m", "trace=demo", "policy=vllm,vlm"], "policy=vlm: unknown policy"),
        (["-m", "trace=demo", "seed=0,x"], "seed: must be int"),
        (["-m", "trace.path=absent.jsonl,other.jsonl"], "absent.jsonl: no such file"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(words, said, tmp_path, capsys):
    assert said in refused(capsys, "run", *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", ["virtual", "live"])
@pytest.mark.parametrize(("version", "said"), [(None, "is not installed"), ("0.22.1", "vLLM 0.22.1 is not a tested")])
def test_without_a_tested_vllm_one_line_says_how_to_get_it(host, version, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if version is None else name)
    monkeypatch.setattr("tokencake.engine.install.installed", lambda: version)
    line = refused(capsys, "run", "trace=demo", f"host={host}")
    assert f"host={host}" in line
    assert said in line
    assert "make engine" in line
    assert list(tmp_path.iterdir()) == []


def test_a_policy_from_outside(tmp_path, monkeypatch, capsys):
    (tmp_path / "outside.py").write_text(
        "from tokencake.policies.api import Policy\n"
        "class Last(Policy):\n"
        "    def __init__(self, x: int = 0) -> None:\n"
        "        assert x == 7\n"
        "    def order(self, view, waiting):\n"
        "        return list(reversed(waiting))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert main([*TINY, "policy=custom", "policy.target=outside:Last", "policy.params.x=7", "out=a"]) == 0
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["policy"] == "custom"


def test_a_composition_runs_and_says_what_it_is(tmp_path):
    parts = ["policy=compose", "policy.order=autellix", "policy.place=continuum", "policy.store=vllm-offload"]
    params = ["policy.params.autellix.mode=atlas", "policy.params.vllm-offload.prompt_only=false"]
    assert main([*TINY, *parts, *params, "out=a"]) == 0
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["policy"] == "compose"
    assert summary["policy_params"]["order"] == "autellix"
    assert summary["policy_params"]["params"] == {"autellix": {"mode": "atlas"}, "vllm-offload": {"prompt_only": False}}


def test_config_dir_adds_experiments(tmp_path):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 5\n")
    assert main([*TINY[0:1], "--config-dir", "conf", *TINY[2:], "+experiment=mine", "out=a", "hardware=cpu-tiny"]) == 0
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["seed"] == 5


@pytest.mark.parametrize("words", [["--config-dir=conf"], ["-cd", "conf"], ["--config-dir", "conf"]], ids=" ".join)
def test_a_flag_takes_its_value_either_way(words, tmp_path, capsys):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 5\n")
    for cfg in (["--cfg=job"], ["-c", "job"], ["-m", "--cfg", "job"]):
        assert main(["run", *words, "trace=demo", "+experiment=mine", *cfg]) == 0
        assert "\nseed: 5\n" in capsys.readouterr().out
    # In a process of its own: Hydra says this through a logger, which a sweep in this one may have turned off.
    command = [sys.executable, "-m", "tokencake.experiments.cli", "run", "trace=demo", "--info=searchpath"]
    assert "Config search path" in subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("words", [[], ["trace.arrivals=closed"]], ids=" ".join)
def test_programs_may_come_when_others_end(words, tmp_path):
    assert main([*TINY, "workload.concurrency=1", *words, "out=a"]) == 0
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["makespan_s"] == pytest.approx(4 * summary["program_latency_s"]["mean"])


def test_an_experiment_may_say_how_a_file_arrives(tmp_path):
    assert main(["trace", "generate", "demo", "mine.jsonl", "programs_count=2"]) == 0
    one = ["hydra.mode=RUN", "+experiment=demo", "trace.path=mine.jsonl", "trace.qps=1"]
    assert main(["run", *one, "out=a"]) == 0


def test_names_with_odd_characters_need_no_quoting(tmp_path):
    assert main(["trace", "generate", "demo", "my trace=1 (a).jsonl", "programs_count=2"]) == 0
    assert main(["run", "+experiment=tiny", "trace.path=my trace=1 (a).jsonl", "out=out dir=1"]) == 0
    assert (tmp_path / "out dir=1" / "summary.json").is_file()
