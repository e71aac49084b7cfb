"""docs/policy-howto.md, run block by block."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "policy-howto.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|console)\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the files that the document asks to save."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for kind, block in BLOCKS:
        name = re.match(r"# (\w+\.py)\n", block)
        if kind == "python" and name:
            (tmp_path / name[1]).write_text(block)
    yield tmp_path
    sys.modules.pop("keep_short", None)


def test_python_blocks(workplace, capsys):
    names = {}
    for kind, block in BLOCKS:
        if kind == "python":
            exec(compile(block, "policy-howto.md", "exec"), names)
    vllm, keep = names["results"].values()
    assert keep.summary["stalled_kv_gb_s"] > 0 == vllm.summary["stalled_kv_gb_s"]
    assert "KeepShort" in capsys.readouterr().out


def test_the_policy_has_twenty_lines():
    code = next(block for kind, block in BLOCKS if kind == "python")
    body = re.sub(r'""".*?"""', "", code, flags=re.DOTALL)
    assert len([line for line in body.splitlines() if line.strip() and not line.startswith("#")]) <= 20


def test_console_blocks(workplace):
    commands = [line[2:] for kind, block in BLOCKS if kind == "console" for line in block.splitlines()]
    source = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    for command in commands:
        words = shlex.split(command)
        assert words[0] == "tokencake"
        subprocess.run(
            [sys.executable, "-m", "tokencake.experiments.cli", *words[1:]],
            check=True,
            env=os.environ | {"PYTHONPATH": source},
            capture_output=True,
            cwd=workplace,
        )
    assert (workplace / "runs/mine/summary.json").exists()


def test_every_hook_is_in_the_table():
    from tokencake.policies.answers import HOOKS

    table = TEXT.split("| hook |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)\(", table, flags=re.M)) == set(HOOKS)
