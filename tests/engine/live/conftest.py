"""One real engine for all tests: starting one takes longer than most of them."""

import sys
from pathlib import Path

import pytest

from tokencake.engine import install

sys.path.insert(0, str(Path(__file__).parent))  # live_replay.py


@pytest.fixture(scope="session")
def runtime():
    """A vLLM engine with the smallest model, its KV tensors larger than any test's pool."""
    reason = install.missing()
    if reason is not None:
        pytest.skip(reason)
    from tokencake.engine.models import find_model
    from tokencake.engine.runtime import Limits, shared_runtime

    return shared_runtime(find_model("xs"), Limits(161, 32, 256, 16, 1024), "auto")
