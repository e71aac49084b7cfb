"""Running `tokencake` in tests."""

from tokencake.experiments.cli import main

TINY = ("run", "+experiment=tiny", "trace=demo", "trace.programs_count=4")
"""A run that takes a moment."""

SWEEP = ("run", "-m", "+experiment=tiny", "trace=demo", "trace.programs_count=4", "policy=vllm,vllm-priority")
"""A sweep that does."""

BROKEN = """
from tokencake.policies.api import Policy


class Fails(Policy):
    def __init__(self, *, x: int = 0) -> None:
        self.x = x

    def order(self, view, waiting):
        return waiting if self.x < 2 else 1 / 0
"""
"""A policy of one's own that fails where its `x` is large."""


def files(directory):
    """Content of all files below a directory, by relative path."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def refused(capsys, *words):
    """Run words that must fail; the one line they print."""
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err
    return captured.err
