"""What is printed beside the numbers of a run."""

import json
import re

import pytest

from tokencake.experiments.cli import main

SMALL = ["+experiment=tiny", "trace=demo", "trace.programs_count=4", "trace.qps=4"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_to_note.py").write_text(
        "from tokencake.policies.api import Offload, Policy, Trigger\n\n\n"
        "class Misspelt(Policy):\n    def ordr(self, view, waiting):\n        return waiting\n\n\n"
        "class Half(Policy):\n    def order(self, view, waiting):\n        return waiting\n\n"
        "    def obsrve(self, event, view):\n        pass\n\n    def orders(self):\n        pass\n\n\n"
        "class Copies(Policy):\n    def place(self, view, trigger, subject):\n"
        "        return [Offload()] if trigger is Trigger.STALL else []\n"
    )


def said(capsys, *words):
    assert main(["run", *words, *SMALL, "out=run"]) == 0
    captured = capsys.readouterr()
    return captured.err.splitlines(), captured.out


@pytest.mark.parametrize(
    "words",
    [
        ["policy=vllm-offload"],
        ["policy=tokencake"],
        ["policy=infercept"],
        ["policy=mori"],
        ["policy=tokencake-upstream", "policy.mode=offload"],
        ["policy=compose", "policy.place=infercept", "policy.order=infercept"],
        ["policy=custom", "policy.target=mine_to_note:Copies"],
    ],
    ids=" ".join,
)
def test_a_policy_that_needs_a_cpu_tier_says_that_there_is_none(words, capsys):
    (line,), _ = said(capsys, *words, "engine.cpu_gib=0")
    assert "copies KV to the CPU tier, and there is none (engine.cpu_gib=0): nothing was copied" in line


@pytest.mark.parametrize(
    "words",
    [
        ["policy=vllm-offload"],
        ["policy=vllm", "engine.cpu_gib=0"],
        ["policy=continuum", "engine.cpu_gib=0"],
        ["policy=tokencake", "policy.temporal=false", "engine.cpu_gib=0"],
        ["policy=tokencake-upstream", "policy.mode=agent", "engine.cpu_gib=0"],
    ],
    ids=" ".join,
)
def test_others_say_nothing(words, capsys):
    assert said(capsys, *words)[0] == []


def test_a_policy_that_decides_nothing_says_so(capsys):
    (hint, line), out = said(capsys, "policy=custom", "policy.target=mine_to_note:Misspelt")
    assert "Misspelt overrides no hook" in line and "stock vLLM" in line
    assert hint.endswith("Misspelt: method ordr is no hook and is never asked; did you mean order?")
    assert out.startswith("Misspelt on demo-4-programs: ")


def test_a_hook_that_is_misspelt_beside_another_is_pointed_out(capsys):
    (line,), _ = said(capsys, "policy=custom", "policy.target=mine_to_note:Half")
    assert line.endswith("Half: method obsrve is no hook and is never asked; did you mean observe?")
    (line,), _ = said(capsys, "policy=compose", "policy.order=mine_to_note:Half", "overwrite=true")
    assert line.endswith("Half: method obsrve is no hook and is never asked; did you mean observe?")


def test_drawing_the_arrival_of_one_program_is_said_to_have_no_effect(capsys):
    for count, told in ((1, True), (2, False)):
        words = ["trace", "generate", "demo", "few.jsonl", f"programs_count={count}", "--overwrite"]
        assert main(words) == 0
        capsys.readouterr()
        assert main(["run", "trace.path=few.jsonl", "trace.arrivals=poisson", "trace.qps=1", f"out={count}"]) == 0
        assert ("trace.arrivals=poisson moves the one program of the trace" in capsys.readouterr().err) == told


def test_when_nothing_can_run_that_is_said(capsys, tmp_path):
    """And nothing looks like a measured zero."""
    with pytest.raises(SystemExit) as end:
        said(capsys, "policy=vllm", "engine.max_model_len=100")
    assert end.value.code == 1
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert re.fullmatch(
        r"run: 4 calls in 4 programs refused, so in no latency:"
        r" 4 longer than engine.max_model_len=100 \(longest 1,457 tokens\)",
        line,
    )
    assert captured.out.splitlines()[-1].endswith("0 of 4 programs finished, so there is no program latency -> run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["programs"], summary["refused_programs"]) == (4, 4)
    for name in ("program_latency_s", "ttft_s", "queue_s", "call_latency_s", "prefill_s", "decode_s"):
        assert set(summary[name].values()) == {None}
    assert [summary[name] for name in ("makespan_s", "running_mean", "waiting_mean", "kv_usage_mean")] == [None] * 4


def test_refusals_say_which_limit_and_by_how_much(capsys, tmp_path):
    """In a sweep of which run, too."""
    head = "arrived_at,num_prefill_tokens,num_decode_tokens\n"
    (tmp_path / "list.csv").write_text(f"{head}0,90,10\n0,3000,20\n0,150,30\n0,160,40\n0,140,21\n")
    words = ["+experiment=tiny", "trace.path=list.csv", "engine.gpu_blocks=10,200", "engine.max_model_len=1000"]
    words += ["engine.block_size=16"]
    assert main(["run", "-m", *words, "out=s"]) == 0
    small, large = capsys.readouterr().err.splitlines()
    assert small == (
        "s/gpu_blocks-10: 3 calls in 3 programs refused, so in no latency:"
        " 1 longer than engine.max_model_len=1000 (longest 3,020 tokens),"
        " 2 too long for the memory of 160 tokens (engine.gpu_blocks=10; longest 200)"
    )
    assert large == (
        "s/gpu_blocks-200: 1 call in 1 program refused, so in no latency:"
        " 1 longer than engine.max_model_len=1000 (longest 3,020 tokens)"
    )


def test_the_closing_line_says_how_many_programs_its_latencies_are_of(capsys):
    _, out = said(capsys, "policy=vllm", "engine.max_model_len=1700")
    assert re.search(r": 2 of 4 programs finished, mean latency \d", out)


@pytest.mark.parametrize(
    ("order", "told"), [(None, True), ("autellix", True), ("continuum", False)], ids=("none", "autellix", "continuum")
)
def test_a_part_that_lost_what_it_relies_on_is_pointed_out(order, told, capsys):
    words = ["policy=compose", "policy.place=continuum", *([f"policy.order={order}"] if order else [])]
    lines, _ = said(capsys, *words)
    assert [": place=continuum without order=continuum: KV is kept" in line for line in lines] == [True] * told


def test_a_log_without_decisions_says_why(capsys):
    (line,), _ = said(capsys, "policy=vllm", "log.decisions=true")
    assert "vllm leaves every decision to the engine: the decision log holds preemptions only" in line
    assert main(["diff", "run", "run"]) == 0
    assert "neither policy decided anything" in capsys.readouterr().out


def test_what_was_typed_is_kept(capsys, tmp_path):
    said(capsys, "policy=vllm-offload", "policy.prompt_only=false")
    typed = (tmp_path / "run" / "overrides.yaml").read_text().split("\n")
    assert typed[0] == "- policy=vllm-offload" and "- +experiment=tiny" in typed
    assert not any("out=" in word for word in typed)


def test_plot_says_what_it_counts_once(capsys, tmp_path):
    said(capsys, "policy=vllm")
    assert main(["plot", "run", "run", "--out", "figures", "--format", "svg"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "tokencake plot: counted once: run (of run) repeat the configuration and seed of another run"
