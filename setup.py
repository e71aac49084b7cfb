"""Compiles the simulator's loop where that is asked for; all else about the package is in pyproject.toml.

``TOKENCAKE_COMPILE=1 pip install .`` needs a C compiler. mypyc compiles the very Python source, so that results are
the same bytes (``tests/sim/test_compiled.py``). Not for ``--editable``: what is compiled hides what is edited.
"""

import os
from pathlib import Path
from typing import Any

from setuptools import setup

SIM = Path("src/tokencake/sim")
# What steps go through. Not what divides: the quotient of large integers is rounded otherwise in C. And not what
# deals with parts of chains (parts, store_job), which an engine names by other objects.
COMPILED = (
    "admission",
    "ahead",
    "calls",
    "chains",
    "compute",
    "cpu",
    "decode",
    "direction",
    "extents",
    "free_list",
    "host",
    "kv",
    "link",
    "loads",
    "metrics",
    "offload",
    "records",
    "ring",
    "scheduler",
    "step",
    "stretch",
    "tools",
    "transfer",
    "watches",
)


def compiled() -> dict[str, Any]:
    """What ``setup`` is told of the compiled modules, if they are wanted."""
    if os.environ.get("TOKENCAKE_COMPILE") != "1":
        return {}
    requires = {"setup_requires": ["mypy>=1.11"]}
    try:
        from mypyc.build import mypycify
    except ModuleNotFoundError:  # pip asks what is needed before it provides it
        return requires
    flags = ["--config-file=", "--ignore-missing-imports"]
    return requires | {"ext_modules": mypycify([*flags, *(str(SIM / f"{name}.py") for name in COMPILED)])}


setup(**compiled())
