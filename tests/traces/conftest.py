"""What several trace tests share: recorded traces, if they are there, and a way to break JSON."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ODD_VALUES = [None, True, -1, 0, 2**70, 1e300, 0.5, "", "x", "\x00", "\ud800", [], [1], {}, {"a": 1}, float("nan")]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with recorded traces (TOKENCAKE_SHARED, by default ../shared beside the repository)."""
    default = Path(__file__).resolve().parents[2].parent / "shared"
    path = Path(os.environ.get("TOKENCAKE_SHARED", default)) / "traces"
    if not path.is_dir():
        pytest.skip(f"recorded traces are not at {path}; set TOKENCAKE_SHARED")
    return path.parent


@pytest.fixture(scope="session")
def broken() -> Callable[[Any, Any], Any]:
    """A function that returns a copy of a JSON value with one random spot changed."""

    def change(value: Any, rng: Any) -> Any:
        value = copy.deepcopy(value)
        spots: list[tuple[Any, Any]] = []
        pending = [value]
        while pending:
            here = pending.pop()
            keys = list(here) if isinstance(here, dict) else range(len(here))
            for key in keys:
                spots.append((here, key))
                if isinstance(here[key], dict | list):
                    pending.append(here[key])
        holder, key = rng.choice(spots)
        action = rng.choice(["replace", "replace", "delete", "rename", "repeat"])
        if action == "delete":
            del holder[key]
        elif action == "rename" and isinstance(holder, dict):
            holder[f"{key}_"] = holder.pop(key)
        elif action == "repeat" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        else:
            holder[key] = copy.deepcopy(rng.choice(ODD_VALUES))
        return value

    return change
