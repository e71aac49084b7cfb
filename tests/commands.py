"""Running `tokencake` in tests."""

from tokencake.experiments.cli import main

TINY = ("run", "+experiment=tiny", "trace=demo", "trace.programs_count=4")
"""A run that takes a moment."""


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
