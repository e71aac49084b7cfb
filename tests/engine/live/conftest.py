"""One real engine for all tests: starting one takes longer than most of them."""

import pytest

from tokencake.engine import install


@pytest.fixture(scope="session")
def runtime(tmp_path_factory):
    """A vLLM engine with the smallest model, its KV tensors larger than any test's pool."""
    reason = install.missing()
    if reason is not None:
        pytest.skip(reason)
    from tokencake.engine.models import find_model
    from tokencake.engine.runtime import Limits, Runtime

    engine = Runtime(find_model("xs"), Limits(161, 32, 256, 16, 1024))
    yield engine
    engine.close()
