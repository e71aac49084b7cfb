"""Compare KV-cache scheduling policies for LLM agents, in a simulator and in a live vLLM engine."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tokencake")
except PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
