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
    sys.modules.pop("copy_out", None)


def test_python_blocks(workplace, capsys):
    names = {}
    for kind, block in BLOCKS:
        if kind == "python":
            exec(compile(block, "policy-howto.md", "exec"), names)
    rows = [re.match(r"(\w+) (\S+) (.*)", line) for line in capsys.readouterr().out.splitlines()]
    (vllm, before, _), (mine, after, tokens) = (row.groups() for row in rows)
    assert (vllm, mine) == ("Vllm", "CopyOut")
    assert float(after) < float(before)
    assert "'cpu_hit': 0" not in tokens


def test_the_policy_has_twenty_lines():
    code = next(block for kind, block in BLOCKS if kind == "python")
    body = re.sub(r'""".*?"""', "", code, flags=re.DOTALL)
    assert len([line for line in body.splitlines() if line.strip() and not line.startswith("#")]) <= 20


def test_console_blocks(workplace):
    commands = [line[2:] for kind, block in BLOCKS if kind == "console" for line in block.splitlines()]
    source = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    printed = ""
    for command in commands:
        words = shlex.split(command)
        assert words[0] == "tokencake"
        printed += subprocess.run(
            [sys.executable, "-m", "tokencake.experiments.cli", *words[1:]],
            check=True,
            env=os.environ | {"PYTHONPATH": source},
            capture_output=True,
            cwd=workplace,
            text=True,
        ).stdout
    for line in re.findall(r"^\| (?:vllm|CopyOut) \|.*", TEXT, flags=re.M):
        for cell in line.strip("| ").split(" | "):
            assert cell.strip() in printed  # the page's table is what the commands print


def test_every_hook_is_in_the_table():
    from tokencake.policies.answers import HOOKS

    table = TEXT.split("| hook |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)\(", table, flags=re.M)) == set(HOOKS)


def test_every_trigger_and_action_is_in_a_table():
    from typing import get_args

    from tokencake.policies.api import Action, Trigger

    for title, names in (("trigger", Trigger.__members__), ("action", [kind.__name__ for kind in get_args(Action)])):
        rows = re.findall(r"^\| (`.*?) \|", TEXT.split(f"| {title} |")[1].split("\n\n")[0], flags=re.M)
        assert {name for row in rows for name in re.findall(r"`(\w+)", row)} == set(names)
