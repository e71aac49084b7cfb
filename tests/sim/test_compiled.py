"""The loop as mypyc compiles it gives the bytes that its Python source gives."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A directory with the package, its loop compiled."""
    if importlib.util.find_spec("mypyc") is None:
        pytest.skip("mypy, which compiles, is not installed")
    if shutil.which("cc") is None or not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("there is no C compiler, or Python's headers are not installed")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src" / "tokencake", source / "src" / "tokencake")  # what is a link there is a folder here
    words = ["pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(target), str(source)]
    env = os.environ | {"TOKENCAKE_COMPILE": "1", "MYPYC_OPT_LEVEL": "1"}
    done = subprocess.run([sys.executable, "-m", *words], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return target


def digests(**env):
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("digests.py"))],
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_compiled_loop_gives_the_same_bytes(compiled):
    fast, slow = digests(PYTHONPATH=str(compiled)), digests()
    assert (fast["compiled"], slow["compiled"]) == (True, False)
    assert fast["digests"] == slow["digests"]
    assert len(set(slow["digests"].values())) > len(slow["digests"]) / 2, "most runs differ from each other"
