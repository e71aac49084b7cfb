"""Where the recorded inputs lie."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_or_none() -> Path | None:
    """The folder of recorded inputs beside the repository, if there is one."""
    default = Path(__file__).parents[2].parent / "shared"
    folder = Path(os.environ.get("TOKENCAKE_SHARED", default))
    return folder if folder.is_dir() else None
