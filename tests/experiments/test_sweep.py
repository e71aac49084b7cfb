import json
import shutil

import pandas as pd
import pytest
import yaml

from commands import BROKEN, SWEEP, files, refused
from tokencake.experiments.cli import main
from tokencake.experiments.naming import job_names
from tokencake.policies import registry

pytestmark = pytest.mark.usefixtures("empty_directory")


def test_a_sweep_has_readable_jobs_and_tables(tmp_path, capsys):
    assert main([*SWEEP, "trace.qps=0.5,2", "seed=range(2)", "out=s"]) == 0
    out = tmp_path / "s"
    jobs = json.loads((out / "sweep.json").read_text())["jobs"]
    assert jobs[0] == "vllm_qps-0.5_seed-0"
    assert len(jobs) == 8
    assert all((out / job / "summary.json").is_file() for job in jobs)
    table = pd.read_csv(out / "sweep.csv")
    assert len(table) == 4
    assert (table["seeds"] == 2).all()
    assert (table["latency_mean_s_low"] <= table["latency_mean_s"]).all()
    assert set(pd.read_csv(out / "paired.csv")["policy"]) == {"vllm-priority"}
    assert "vllm-priority" in (out / "sweep.md").read_text()
    assert "vllm-priority" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_jobs_of_a_sweep_are_the_runs_one_would_do_alone(tmp_path):
    assert main([*SWEEP, "out=s"]) == 0
    assert main(["run", *SWEEP[2:5], "policy=vllm", "out=alone"]) == 0
    for name in ("summary.json", "programs.parquet", "calls.parquet", "kv.parquet"):
        assert (tmp_path / "s" / "vllm" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_a_sweep_in_use_is_refused_and_may_be_overwritten(tmp_path, capsys):
    assert main([*SWEEP, "out=s"]) == 0
    before = (tmp_path / "s" / "sweep.csv").read_bytes()
    capsys.readouterr()
    assert main([*SWEEP, "out=s"]) == 2
    assert "overwrite=true" in capsys.readouterr().err
    assert (tmp_path / "s" / "sweep.csv").read_bytes() == before
    assert main([*SWEEP, "seed=3", "out=s", "overwrite=true"]) == 0
    assert (tmp_path / "s" / "sweep.csv").read_bytes() != before


EVERY = [
    ("sessions", {"seed": "range(3)"}),
    ("conversations", {"seed": "range(3)"}),
    ("code_writer", {"seed": "range(5)"}),
    ("every_policy", {}),
]


@pytest.mark.parametrize(("experiment", "others"), EVERY)
def test_every_policy_is_in_the_experiments_that_say_so(experiment, others, capsys):
    """All that are registered but the one that decides at random; stock vLLM, the baseline, first."""
    assert main(["run", f"+experiment={experiment}", "--cfg", "hydra"]) == 0
    params = yaml.safe_load(capsys.readouterr().out)["hydra"]["sweeper"]["params"]
    policies = params.pop("policy").split(",")
    assert params == others
    assert policies[0] == "vllm"
    assert sorted([*policies, "random"]) == sorted(registry.names())


def test_a_sweep_can_stand_in_an_experiment_file(tmp_path):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n"
        "defaults: [override /trace: demo, override /hardware: cpu-tiny]\n"
        "trace: {programs_count: 3}\n"
        "hydra: {mode: MULTIRUN, sweeper: {params: {policy: 'vllm,vllm-offload'}}}\n"
    )
    assert main(["run", "--config-dir", "conf", "+experiment=mine", "out=s"]) == 0
    assert json.loads((tmp_path / "s" / "sweep.json").read_text())["jobs"] == ["vllm", "vllm-offload"]


def test_plot_draws_a_sweep(tmp_path, capsys):
    assert main([*SWEEP, "trace.qps=0.5,2", "out=s"]) == 0
    assert main(["plot", "s", "--format", "png"]) == 0
    names = {p.name for p in (tmp_path / "s" / "figures").iterdir()}
    figures = {"by_policy.png", "latency_cdf.png", "latency_load.png", "kv_memory.png"}
    assert names == figures | {"table.csv", "table.md", "paired.csv"}
    assert "latency_cdf.png" in capsys.readouterr().out


AGAIN = "resume=true out=s tries the rest again; after a change of code, overwrite=true out=s runs all of it"


@pytest.mark.parametrize("values", ["0,1,2", "2,0,3,1"])
def test_a_failing_job_stops_no_other_and_is_named_in_one_line(values, tmp_path, monkeypatch, capsys):
    (tmp_path / "breaks.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["policy=custom", "policy.target=breaks:Fails", f"policy.params.x={values}"]
    assert main(["run", "-m", *SWEEP[2:5], *words, "out=s"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    jobs = values.split(",")
    failed = [x for x in jobs if int(x) > 1]
    assert f"{len(failed)} of {len(jobs)} jobs failed: x-{failed[0]}: policy Fails: order raised ZeroDiv" in line
    assert ("; also x-3" in line) == ("3" in failed)
    assert line.endswith(f"; what finished (2 of {len(jobs)}) is in s; {AGAIN}")
    assert {p.parent.name for p in (tmp_path / "s").rglob("summary.json")} == {"x-0", "x-1"}
    assert [p.name for p in (tmp_path / "s").iterdir() if p.name.startswith(".")] == []


OWN = """
from tokencake.policies.api import Policy


class First(Policy):
    def __init__(self, *, margin: float = 1.0) -> None:
        self.margin = margin

    def order(self, view, waiting):
        return waiting


class Second(First):
    def __init__(self, *, must: int, sizes: tuple = (1, 2)) -> None:
        super().__init__(margin=must)
"""


@pytest.mark.parametrize(
    ("words", "policies"),
    [
        (["policy=vllm,own_two:First"], {"vllm": {}, "First": {"margin": 1.0}}),
        (["policy=vllm,own_two:First", "policy.margin=3"], {"vllm": {}, "First": {"margin": 3}}),
        (
            ["policy=own_two:First,own_two:Second,infercept", "policy.must=2", "policy.info=oracle"],
            {"First": {"margin": 1.0}, "Second": {"must": 2}, "infercept": {"info": "oracle"}},
        ),
        (
            ["policy=vllm,custom", "policy.target=own_two:First", "policy.params.margin=3"],
            {"vllm": {}, "First": {"params": {"margin": 3}}},
        ),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_policies_of_ones_own_are_compared_in_one_sweep(words, policies, tmp_path, monkeypatch):
    (tmp_path / "own_two.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["run", "-m", *SWEEP[2:5], *words, "out=s"]) == 0
    jobs = json.loads((tmp_path / "s" / "sweep.json").read_text())["jobs"]
    assert list(pd.read_csv(tmp_path / "s" / "sweep.csv")["policy"]) == list(policies)
    for job, params in zip(jobs, policies.values(), strict=True):
        section = yaml.safe_load((tmp_path / "s" / job / "config.yaml").read_text())["policy"]
        assert {key: section[key] for key in params} == params
        assert ("margin" in section) == ("margin" in params)


@pytest.mark.parametrize(
    "text",
    [
        "hydra: {mode: MULTIRUN, sweeper: {params: {policy: 'vllm,own_two:First'}}}",
        "defaults: [override /policy: own_two:First]\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: '0'}}}",
    ],
    ids=("swept", "chosen"),
)
def test_an_experiment_may_name_a_class_of_ones_own(text, tmp_path, monkeypatch):
    (tmp_path / "own_two.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    words = ["--config-dir", "conf", *SWEEP[3:5], "hardware=cpu-tiny", "+experiment=mine", "policy.margin=3"]
    assert main(["run", *words, "out=s"]) == 0
    assert list(pd.read_csv(tmp_path / "s" / "sweep.csv")["policy"])[-1] == "First"


def test_a_swept_parameter_of_one_policy_makes_no_copies_of_another(tmp_path, monkeypatch):
    (tmp_path / "own_two.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["policy=vllm,own_two:First", "policy.margin=1,2"]
    assert main(["run", "-m", *SWEEP[2:5], *words, "out=s"]) == 0
    assert list(pd.read_csv(tmp_path / "s" / "sweep.csv")["policy"]) == ["vllm", "First(margin=1)", "First(margin=2)"]


STOPS = """
from tokencake.policies.api import Policy


class Stops(Policy):
    def __init__(self, *, x: int = 0) -> None:
        self.x = x

    def order(self, view, waiting):
        if self.x > 1:
            raise KeyboardInterrupt
        return waiting
"""


@pytest.mark.parametrize(
    ("source", "target", "code"), [(BROKEN, "Fails", 2), (STOPS, "Stops", 130)], ids=("failure", "interrupt")
)
def test_what_finished_replaces_an_earlier_sweep(source, target, code, tmp_path, monkeypatch, capsys):
    """A job that fails, or Ctrl-C, costs no finished job, nor the sweep before if nothing finished."""
    name = f"sweep_{target.lower()}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["policy=custom", f"policy.target={name}:{target}"]
    assert main(["run", "-m", *SWEEP[2:5], *words, "policy.params.x=0,1", "out=s"]) == 0
    before = files(tmp_path / "s")
    capsys.readouterr()
    assert main(["run", "-m", *SWEEP[2:5], *words, "policy.params.x=2,3", "out=new"]) == code
    assert capsys.readouterr().err.endswith("; no job finished, so nothing was written\n")
    assert not (tmp_path / "new").exists()
    assert main(["run", "-m", *SWEEP[2:5], *words, "policy.params.x=2,3", "out=s", "overwrite=true"]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("; no job finished, so s is the earlier sweep")
    assert files(tmp_path / "s") == before
    again = ["policy.params.x=1,2", "seed=5", "out=s", "overwrite=true"]
    assert main(["run", "-m", *SWEEP[2:5], *words, *again]) == code
    (line,) = capsys.readouterr().err.splitlines()
    on = AGAIN if code == 2 else "resume=true out=s does the rest"
    assert line.endswith(f"; what finished (1 of 2) is in s, in place of the earlier sweep; {on}")
    (summary,) = (tmp_path / "s").rglob("summary.json")
    assert json.loads(summary.read_text())["seed"] == 5
    assert {p.name for p in tmp_path.iterdir() if p.name.startswith(".")} == set()


def test_a_run_that_is_interrupted_says_that_it_left_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "stops_alone.py").write_text(STOPS)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["run", *SWEEP[2:5], "policy=stops_alone:Stops", "policy.x=2", "out=a"]) == 130
    assert capsys.readouterr().err == "tokencake: interrupted; nothing was written\n"
    assert not (tmp_path / "a").exists()


def test_debug_shows_where_a_job_failed(tmp_path, monkeypatch, capsys):
    (tmp_path / "breaks.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["policy=custom", "policy.target=breaks:Fails", "policy.params.x=0,2", "out=s"]
    assert main(["run", "--debug", "-m", *SWEEP[2:5], *words]) == 2
    assert "1 / 0" in capsys.readouterr().err


@pytest.mark.slow
def test_joblib_gives_the_same_results(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    assert main([*SWEEP, "out=a"]) == 0
    assert main([*SWEEP, "out=b", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]) == 0
    for job in ("vllm", "vllm-priority"):
        assert (tmp_path / "a" / job / "calls.parquet").read_bytes() == (
            tmp_path / "b" / job / "calls.parquet"
        ).read_bytes()


def test_job_names_are_unique_and_safe():
    names = job_names([{"a.x": 1, "b.x": 2}, {"trace.path": "../x y/z.jsonl"}, {"seed": 1}, {"seed": 1}])
    assert names == ["a-x-1_b-x-2", "path-x-y-z.jsonl", "seed-1_job-2", "seed-1_job-3"]


def test_a_job_holds_what_its_name_says(tmp_path):
    """Also where the command line changes one of the keys that an experiment file sweeps."""
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n"
        "defaults: [override /trace: demo, override /hardware: cpu-tiny]\n"
        "trace: {programs_count: 3}\n"
        "hydra: {mode: MULTIRUN, sweeper: {params: {trace.qps: '1.0,2.0', seed: 'range(2)'}}}\n"
    )
    assert main(["run", "--config-dir", "conf", "+experiment=mine", "trace.qps=3.0,4.0", "out=s"]) == 0
    jobs = json.loads((tmp_path / "s" / "sweep.json").read_text())["jobs"]
    assert len(jobs) == 4
    for job in jobs:
        config = yaml.safe_load((tmp_path / "s" / job / "config.yaml").read_text())
        assert job == f"qps-{config['trace']['qps']}_seed-{config['seed']}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-m", "policy=vllm,mori,vllm"], "policy=vllm,mori,vllm: vllm is there twice"),
        (["-m", "policy=vllm", "seed=1,2,1"], "seed=1,2,1: 1 is there twice"),
        (
            ["policy=vllm", "policy=mori"],
            "policy=vllm policy=mori: one policy a run; several in a sweep: run -m policy=",
        ),
    ],
    ids=["swept twice", "seed twice", "typed twice"],
)
def test_what_is_chosen_twice_is_refused(words, said, tmp_path, capsys):
    assert said in refused(capsys, "run", *SWEEP[2:5], *words, "out=s")
    assert list(tmp_path.iterdir()) == []


def test_the_odd_lines_of_a_trace_are_told_once_a_sweep(tmp_path, capsys):
    (tmp_path / "list.csv").write_text(
        "arrived_at,num_prefill_tokens,num_decode_tokens\n2,100,10\n1,100,10\n1.5,100,0\n"
    )
    words = ["+experiment=tiny", "trace.path=list.csv", "policy=vllm,mori", "seed=0,1"]
    assert main(["run", "-m", *words, "out=s"]) == 0
    captured = capsys.readouterr()
    told = captured.err.splitlines()
    assert "list: program stands behind one that arrives later: sorted by arrival (2 times)" in told
    assert len(told) == len(set(told)) == 2
    assert captured.out.count("mori on list: ") == 2


def test_plot_says_which_jobs_of_a_sweep_did_not_run(tmp_path, capsys):
    assert main([*SWEEP, "trace.qps=0.5,2", "seed=range(3)", "out=s"]) == 0
    for job in ("vllm_qps-2_seed-1", "vllm_qps-2_seed-2", *(f"vllm-priority_qps-0.5_seed-{i}" for i in range(3))):
        shutil.rmtree(tmp_path / "s" / job)
    capsys.readouterr()
    assert main(["plot", "s", "--format", "svg"]) == 0
    captured = capsys.readouterr()
    assert captured.err == (
        "tokencake plot: s: 5 of 12 jobs of the sweep did not run: vllm_qps-2 (seed-1, seed-2), vllm-priority_qps-0.5\n"
    )
    table = pd.read_csv(tmp_path / "s" / "figures" / "table.csv")
    assert table[["policy", "trace.qps", "seeds"]].to_numpy().tolist() == [
        ["vllm", 0.5, 3],
        ["vllm", 2.0, 1],
        ["vllm-priority", 2.0, 3],
    ]
    assert pd.read_csv(tmp_path / "s" / "figures" / "paired.csv")["seeds"].tolist() == [1, 1, 1]
    row = next(
        line for line in (tmp_path / "s" / "figures" / "table.md").read_text().splitlines() if "| 2 | vllm-" in line
    )
    assert "(1 seed)" in row
