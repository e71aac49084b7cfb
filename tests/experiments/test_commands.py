"""The commands beside `tokencake run`, and help."""

import json
import re
import subprocess
import sys

import pytest

from commands import files, refused
from tokencake.experiments.cli import main
from tokencake.sim.latency.profiles import load_profile

pytestmark = pytest.mark.usefixtures("empty_directory")


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
        (["policies", "custm"], "did you mean 'custom'?"),
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


def test_a_policy_of_ones_own_is_described_by_how_it_is_set(capsys):
    assert main(["policies", "custom"]) == 0
    out = capsys.readouterr().out
    assert "policy=module:Class is the short form" in out
    assert "policy.target=null" in out
    assert main(["policies", "tokencake.policies.vllm_offload:VllmOffload"]) == 0
    assert "policy.prompt_only=true  (bool)" in capsys.readouterr().out
    assert "'no_such:X': there is no module 'no_such'" in refused(capsys, "policies", "no_such:X")


def test_pages_are_written(tmp_path, capsys):
    assert main(["policies", "--pages", str(tmp_path / "pages")]) == 0
    assert (tmp_path / "pages" / "continuum.md").read_text().startswith("# continuum")
    (tmp_path / "file").write_text("")
    assert main(["policies", "--pages", str(tmp_path / "file")]) == 2
    assert "--pages" in capsys.readouterr().err


def test_policies_and_hardware_are_listed(capsys):
    assert main(["policies"]) == 0
    assert main(["policies", "vllm-offload"]) == 0
    assert main(["hardware"]) == 0
    out = capsys.readouterr().out
    assert "vllm-offload" in out
    assert "policy.prompt_only=" in out
    assert "a800-qwen2.5-14b" in out


def test_a_profile_that_was_built_says_once_where_its_times_come_from(tmp_path, capsys):
    shape = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8}
    shape |= {"num_key_value_heads": 2, "vocab_size": 32000, "max_position_embeddings": 4096, "torch_dtype": "bfloat16"}
    (tmp_path / "model").mkdir()
    names = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (tmp_path / "model" / "config.json").write_text(json.dumps(shape | names))
    assert main(["hardware", "build", "model", "h100_sxm", "mine.yaml"]) == 0
    line, hint = capsys.readouterr()
    (found,) = re.findall(r"leaves ([\d,]+) tokens of KV on the GPU \(([\d,]+) x 16\)", line)
    tokens, blocks = (int(number.replace(",", "")) for number in found)
    assert tokens == 16 * blocks == 16 * load_profile("mine.yaml").usable_blocks
    assert ("pip install 'tokencake[hardware]'" in hint) == ("the roofline" in line)
    assert line.count("step times from") == 1
    assert "(roofline)" not in line and "(table)" not in line
    assert line.endswith("use it with hardware.profile=mine.yaml\n")
    for words in (["mine.yaml"], ["list", "mine.yaml", "a800-qwen2.5-14b"]):
        assert main(["hardware", *words]) == 0
        rows = [row for row in capsys.readouterr().out.splitlines() if row.strip().startswith(("mine.yaml", "a800-"))]
        assert len(rows) == len([word for word in words if word != "list"])
        assert found[0] in rows[0]
    assert "unknown hardware profile 'absent'" in refused(capsys, "hardware", "list", "absent")
    again = refused(capsys, "hardware", "build", "model", "h100_sxm", "mine.yaml")
    assert "mine.yaml exists; choose another, or replace it with --overwrite" in again
