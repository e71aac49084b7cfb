import gzip
import json
import subprocess
import sys
from itertools import pairwise

import pandas as pd
import pytest

from tokencake.experiments.cli import main
from tokencake.experiments.columns import TABLES

TINY = ("run", "+experiment=tiny", "trace=demo", "trace.programs_count=4")
FILES = {"config.yaml", "overrides.yaml", "summary.json", "timing.json"} | {f"{name}.parquet" for name in TABLES}


@pytest.fixture(autouse=True)
def in_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def files(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def refused(capsys, *words):
    """Run words that must fail; the one line they print."""
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err
    return captured.err


def test_a_run_directory_is_complete(tmp_path, capsys):
    assert main([*TINY, "out=runs/a"]) == 0
    assert {p.name for p in (tmp_path / "runs" / "a").iterdir()} == FILES
    assert "-> runs/a" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["runs"], "Hydra left something behind"
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["a"]


def test_summary_has_the_documented_keys(tmp_path):
    assert main([*TINY, "out=a", "seed=3"]) == 0
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert (summary["host"], summary["policy"], summary["seed"]) == ("sim", "vllm", 3)
    assert len(summary["trace_sha256"]) == 64
    promised = (
        "programs calls makespan_s program_latency_s ttft_s queue_s output_tokens prefill_tokens preemptions "
        "kv_usage_mean kv_effective_mean stalled_kv_gb_s d2h_bytes h2d_bytes d2h_time_s h2d_time_s "
        "offload_wasted_bytes upload_late_s free_list_turnover_s critical_inversions steps"
    )
    assert set(promised.split()) <= set(summary)
    assert set(summary["prefill_tokens"]) == {"computed", "gpu_hit", "cpu_hit", "recomputed"}
    for key in ("program_latency_s", "ttft_s", "queue_s"):
        assert set(summary[key]) == {"mean", "p50", "p90", "p95", "p99", "max"}
    assert set(json.loads((tmp_path / "a" / "timing.json").read_text())) >= {"wall_s", "loop_cpu_s", "peak_rss_mb"}


def test_optional_outputs(tmp_path):
    assert main([*TINY, "out=a", "log.decisions=true", "timeline=true"]) == 0
    assert {p.name for p in (tmp_path / "a").iterdir()} == FILES | {"decisions.jsonl.zst", "timeline.json.gz"}
    with gzip.open(tmp_path / "a" / "timeline.json.gz") as file:
        events = json.load(file)["traceEvents"]
    kinds = {event.get("cat") for event in events}
    assert {"llm", "tool", "decode"} <= kinds
    assert all(event["dur"] >= 0 for event in events if event["ph"] == "X")
    threads = {(e["pid"], e["tid"]) for e in events if e.get("name") == "thread_name"}
    assert threads >= {(e["pid"], e["tid"]) for e in events if e["ph"] == "X"}


def test_slices_of_a_track_do_not_overlap(tmp_path):
    assert main([*TINY, "out=a", "timeline=true"]) == 0
    with gzip.open(tmp_path / "a" / "timeline.json.gz") as file:
        events = json.load(file)["traceEvents"]
    tracks = {}
    for event in events:
        if event["ph"] == "X" and event["cat"] in ("llm", "tool"):
            tracks.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    for slices in tracks.values():
        slices.sort()
        assert all(a[1] <= b[0] + 0.01 for a, b in pairwise(slices))


def test_a_free_directory_is_found_when_none_is_given(tmp_path):
    assert main(TINY) == 0
    assert main(TINY) == 0
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {"run-001", "run-002"}


def test_equal_runs_are_equal_bytes_across_processes_and_hash_seeds(tmp_path):
    outputs = []
    for hash_seed in ("0", "1", "77"):
        words = [*TINY, "policy=vllm-offload", "out=a", "overwrite=true", "log.decisions=true", "timeline=true"]
        command = [sys.executable, "-m", "tokencake.experiments.cli", *words]
        environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}
        subprocess.run(command, check=True, cwd=tmp_path, env=environment, capture_output=True)
        outputs.append(files(tmp_path / "a"))
        del outputs[-1]["timing.json"]
    assert outputs[0] == outputs[1] == outputs[2]


def test_another_seed_is_another_run(tmp_path):
    for seed in (0, 1):
        assert main([*TINY, f"seed={seed}", f"out={seed}"]) == 0
    assert files(tmp_path / "0")["programs.parquet"] != files(tmp_path / "1")["programs.parquet"]


def test_overwrite_replaces_the_run(tmp_path, capsys):
    assert main([*TINY, "out=a"]) == 0
    before = files(tmp_path / "a")
    capsys.readouterr()
    assert "overwrite=true" in refused(capsys, *TINY, "seed=1", "out=a")
    assert files(tmp_path / "a") == before
    assert main([*TINY, "seed=1", "out=a", "overwrite=true"]) == 0
    assert files(tmp_path / "a") != before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["policy=vlm"], "policy=vlm: unknown policy; did you mean 'vllm'?"),
        (["policy=vllm-offload", "policy.prompt_onyl=true"], "did you mean 'policy.prompt_only'?"),
        (["policy=vllm-offload", "policy.prompt_only=maybe"], "prompt_only"),
        (["policy=custom"], "target"),
        (["policy=compose"], "names no part"),
        (["policy=compose", "policy.order=thunderagent"], "does not decide there; it decides place"),
        (["policy=compose", "policy.place=autellix"], "needs order=autellix"),
        (["policy=continuum", "policy.info=all"], "policy.info: must be one of class_mean"),
        (["policy=vllm", "policy.info=oracle"], "policy.info: unknown key"),
        (["policy=custom", "policy.target=no_such_module:X"], "no_such_module"),
        (["trace=code_writr"], "did you mean 'code_writer'?"),
        (["trace=code_writer", "trace.qpps=1"], "did you mean 'trace.qps'?"),
        (["trace=code_writer", "trace.qps=-1"], "trace.qps must be > 0"),
        (["trace=code_writer", "trace.qps=nan"], "trace.qps must be > 0"),
        (["trace=code_writer", "trace.qps=fast"], "trace.qps: must be float, got 'fast'"),
        (["trace=code_writer", "trace.profile=froze"], "did you mean 'frozen'?"),
        (["trace=demo", "hardware=a800"], "did you mean 'a800-qwen2.5-14b'?"),
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
        (["trace=demo", "bounds.infinite_kv=7"], "bounds.infinite_kv: must be bool"),
        (["trace=demo", "seed=one"], "seed: must be int, got 'one'"),
        (["trace=demo", "host=smi"], "did you mean 'sim'?"),
        (["trace=demo", "sed=1"], "did you mean 'seed'?"),
        (["polcy=vllm"], "polcy: unknown key; did you mean 'policy'?"),
        (["+polcy=vllm", "trace=demo"], "polcy: unknown key; did you mean 'policy'?"),
        (["enigne.gpu_blocks=5"], "enigne.gpu_blocks: unknown key; did you mean 'engine.*'?"),
        (["zzz=1"], "zzz: unknown key; known: bounds.*, engine.*, experiment, hardware, host, link.*, "),
        (["trace=demo", "+hardware.x=1"], "hardware.x: unknown key; known: draw, jitter, profile, recorded"),
        (["trace=demo", "policy.hold=keep"], "policy.hold: unknown key; this policy has no parameters"),
        (["trace=demo", "engine.gpu_block=9"], "'engine.gpu_blocks'? (or engine.cpu_blocks, engine.cpu_gib)"),
        (["experiment=tinny", "trace=demo"], "did you mean 'tiny'?"),
        (["trace=demo", "+engine.x=1"], "engine.x: unknown key"),
        (["trace=demo", "overwrite=perhaps"], "overwrite: must be true or false"),
        (["trace=demo", "+experiment=tinny"], "did you mean 'tiny'?"),
        (["trace=demo", "trace.qps=0.1,0.2"], "tokencake run -m"),
        (["trace=demo", "trace.qps=[1"], "not a valid override"),
        (["trace=demo", "nonsense"], "neither a flag nor key=value"),
        (["--config-dir", "absent", "trace=demo"], "no such directory"),
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


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "importer knows"),
        (["{}"], "importer knows"),
        (['{"format": "tokencake-trace", "version": 99, "name": "x"}'], "version"),
        (['{"format": "tokencake-trace", "version": 1, "name": "x"}', "{"], "bad.jsonl:2"),
        (['{"format": "tokencake-trace", "version": 1, "name": "x"}', '{"program": "p", "app": "a"}'], "bad.jsonl:2"),
    ],
)
def test_a_broken_trace_writes_nothing_and_leaves_earlier_results(lines, said, tmp_path, capsys):
    assert main([*TINY, "out=a"]) == 0
    before = files(tmp_path / "a")
    (tmp_path / "bad.jsonl").write_text("\n".join(lines))
    capsys.readouterr()
    assert said in refused(capsys, "run", "trace.path=bad.jsonl", "out=a", "overwrite=true")
    assert said in refused(capsys, "run", "-m", "trace.path=bad.jsonl", "seed=0,1", "out=sweep")
    assert files(tmp_path / "a") == before
    assert {p.name for p in tmp_path.iterdir()} == {"a", "bad.jsonl"}


def test_programs_may_stand_in_any_order(tmp_path, capsys):
    """Sorted by arrival, those of one time in the order of the file; and it is said."""
    rows = ["9,100,2", "1,200,2", "9,300,2", "20,400,2"]
    for name, order in (("any", rows), ("sorted", [rows[1], rows[0], *rows[2:]])):
        lines = ["arrived_at,num_prefill_tokens,num_decode_tokens", *order]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
        assert main(["run", "+experiment=tiny", f"trace.path={name}.csv", f"out={name}"]) == 0
        said = "sorted by arrival (1 times)" in capsys.readouterr().err
        assert said == (name == "any")
    tables = [pd.read_parquet(tmp_path / name / "calls.parquet") for name in ("any", "sorted")]
    columns = ["arrival_s", "prompt_tokens", "finish_s"]
    assert tables[0][columns].equals(tables[1][columns])


def test_an_empty_trace_is_an_empty_result_or_one_line(tmp_path, capsys):
    (tmp_path / "none.jsonl").write_text('{"format": "tokencake-trace", "version": 1, "name": "x"}\n')
    code = main(["run", "trace.path=none.jsonl", "out=a"])
    assert code == 0
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["programs"] == 0


def test_a_truncated_archive_is_one_line(tmp_path, capsys):
    assert main(["trace", "generate", "demo", "whole.jsonl.gz"]) == 0
    capsys.readouterr()
    (tmp_path / "cut.jsonl.gz").write_bytes((tmp_path / "whole.jsonl.gz").read_bytes()[:-200])
    assert "complete compressed file" in refused(capsys, "run", "trace.path=cut.jsonl.gz", "out=a")
    assert not (tmp_path / "a").exists()


def test_names_with_odd_characters_need_no_quoting(tmp_path):
    assert main(["trace", "generate", "demo", "my trace=1 (a).jsonl", "programs_count=2"]) == 0
    assert main(["run", "+experiment=tiny", "trace.path=my trace=1 (a).jsonl", "out=out dir=1"]) == 0
    assert (tmp_path / "out dir=1" / "summary.json").is_file()


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


def test_config_dir_adds_experiments(tmp_path):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 5\n")
    assert main([*TINY[0:1], "--config-dir", "conf", *TINY[2:], "+experiment=mine", "out=a", "hardware=cpu-tiny"]) == 0
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["seed"] == 5


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["plot", "--help"], ["trace", "import", "--help"]])
def test_help_is_there(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 0
    assert "tokencake" in capsys.readouterr().out


def test_help_imports_nothing_heavy():
    code = "import sys, tokencake.experiments.cli as c; c.parser(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"hydra", "pandas", "numpy", "matplotlib", "rich"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["polices"], "did you mean 'policies'?"),
        (["policies", "vlm"], "did you mean 'vllm'?"),
        (["plot"], "required"),
        (["plot", "absent"], "absent: no such directory"),
        (["plot", "."], "holds no run"),
        (["trace", "inspect", "absent"], "absent: no such file"),
        (["trace", "validate", "absent"], "absent: no such file"),
        (["trace", "import", "absent", "out.jsonl"], "absent: no such file"),
        (["trace", "generate", "code_writr", "out.jsonl"], "did you mean 'code_writer'?"),
        (["trace", "generate", "code_writer", "out.jsonl", "qps"], "not KEY=VALUE"),
        (["trace", "generate", "code_writer", "out.jsonl", "qpps=1"], "did you mean 'qps'?"),
        (["hardware", "build", "absent", "h100_sxm", "out.yaml"], "config.json"),
    ],
)
def test_other_commands_refuse_in_one_line(words, said, tmp_path, capsys):
    assert said in refused(capsys, *words)
    assert list(tmp_path.iterdir()) == []


def test_trace_commands_work_together(tmp_path, capsys):
    (tmp_path / "list.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,100,10\n1.5,50,20\n")
    assert main(["trace", "import", "list.csv", "out.jsonl"]) == 0
    assert "2 programs, 2 calls from request_list" in capsys.readouterr().out
    assert "already there" in refused(capsys, "trace", "import", "list.csv", "out.jsonl")
    assert main(["trace", "validate", "out.jsonl"]) == 0
    capsys.readouterr()
    assert main(["trace", "inspect", "out.jsonl", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["programs"] == 2
    assert main(["run", "+experiment=request_list", "trace.path=list.csv", "out=a"]) == 0
    assert main(["run", "+experiment=request_list", "trace.path=out.jsonl", "out=b"]) == 0
    assert files(tmp_path / "a")["calls.parquet"] == files(tmp_path / "b")["calls.parquet"]


def test_every_policy_is_described_as_it_is_set(capsys):
    from tokencake.policies import registry

    for name in (*registry.names(), "compose"):
        assert main(["policies", name]) == 0
    out = capsys.readouterr().out
    assert "policy.first_quantum_s=1.0  (float)" in out
    assert "policy.decay=true  (bool)" in out
    assert "policy.info=null" in out
    assert "``" not in out


def test_pages_are_written(tmp_path, capsys):
    assert main(["policies", "--pages", str(tmp_path / "pages")]) == 0
    assert (tmp_path / "pages" / "continuum.md").read_text().startswith("# continuum")
    (tmp_path / "file").write_text("")
    assert main(["policies", "--pages", str(tmp_path / "file")]) == 2
    assert "--pages" in capsys.readouterr().err


def test_a_composition_runs_and_says_what_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = ["policy=compose", "policy.order=autellix", "policy.place=continuum", "policy.store=vllm-offload"]
    params = ["policy.params.autellix.mode=atlas", "policy.params.vllm-offload.prompt_only=false"]
    assert main([*TINY, *parts, *params, "out=a"]) == 0
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["policy"] == "compose"
    assert summary["policy_params"]["order"] == "autellix"
    assert summary["policy_params"]["params"] == {"autellix": {"mode": "atlas"}, "vllm-offload": {"prompt_only": False}}


def test_policies_and_hardware_are_listed(capsys):
    assert main(["policies"]) == 0
    assert main(["policies", "vllm-offload"]) == 0
    assert main(["hardware"]) == 0
    out = capsys.readouterr().out
    assert "vllm-offload" in out
    assert "policy.prompt_only=" in out
    assert "a800-qwen2.5-14b" in out


def test_memory_over_time_has_the_mean_of_the_summary(tmp_path):
    """However long nothing happens after a moment that was not sampled."""
    rows = [f"{start + i / 100},{100 + 40 * i},{9 + i}" for start in (0, 5, 90000) for i in range(30)]
    text = "\n".join(["arrived_at,num_prefill_tokens,num_decode_tokens", *rows])
    (tmp_path / "list.csv").write_text(text + "\n")
    assert main(["run", "+experiment=tiny", "trace.path=list.csv", "out=a"]) == 0
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    kv = pd.read_parquet(tmp_path / "a" / "kv.parquet")
    blocks = kv[["running_blocks", "stalled_blocks", "cached_blocks", "free_blocks"]]
    assert set(blocks.sum(axis=1)) == {119}
    assert blocks.min().min() >= 0
    assert kv["time_s"].is_monotonic_increasing
    assert kv["time_s"].iloc[-1] == summary["makespan_s"]
    used = (kv["running_blocks"] * kv["time_s"].diff().shift(-1)).sum() / summary["makespan_s"] / 119
    assert used == pytest.approx(summary["kv_usage_mean"], rel=0.02)


def test_refused_calls_are_said_and_counted(tmp_path, capsys):
    (tmp_path / "list.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,100,10\n1.5,5000,20\n")
    assert main(["run", "+experiment=tiny", "trace.path=list.csv", "out=a"]) == 0
    assert "1 calls in 1 programs refused" in capsys.readouterr().err
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert (summary["programs"], summary["calls"], summary["refused_calls"]) == (2, 1, 1)


def test_steps_beyond_the_measured_range_are_said(tmp_path, capsys):
    (tmp_path / "list.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,100000,10\n")
    words = ["hardware=h100-llama-3.1-8b", "engine.max_model_len=200000", "engine.max_num_batched_tokens=200000"]
    assert main(["run", "trace.path=list.csv", "out=a", *words]) == 0
    assert "beyond what the hardware profile was measured for" in capsys.readouterr().err


def test_a_run_in_which_nothing_fits_claims_no_latency(tmp_path, capsys):
    assert main(("run", "trace=demo", "engine.gpu_blocks=3", f"out={tmp_path / 'a'}")) == 0
    said = capsys.readouterr()
    assert "no program could run" in said.out + said.err
    assert "mean latency" not in said.out + said.err


def test_a_profile_that_was_built_says_once_where_its_times_come_from(tmp_path, capsys):
    shape = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8}
    shape |= {"num_key_value_heads": 2, "vocab_size": 32000, "max_position_embeddings": 4096, "torch_dtype": "bfloat16"}
    (tmp_path / "model").mkdir()
    names = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (tmp_path / "model" / "config.json").write_text(json.dumps(shape | names))
    assert main(["hardware", "build", "model", "h100_sxm", "mine.yaml"]) == 0
    line = capsys.readouterr().out
    assert line.count("step times from") == 1
    assert "(roofline)" not in line and "(table)" not in line
    assert line.endswith("use it with hardware.profile=mine.yaml\n")
