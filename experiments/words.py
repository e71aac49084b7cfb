"""Counts and lists as one says them."""

from collections.abc import Sequence


def counted(number: int, noun: str) -> str:
    """A number and what it counts.

    >>> counted(1, "program"), counted(0, "call"), counted(2, "finished job")
    ('1 program', '0 calls', '2 finished jobs')
    """
    return f"{number} {noun}{'s' * (number != 1)}"


def named(names: Sequence[str], most: int = 3) -> str:
    """Some names, the first few of them told.

    >>> named(["a", "b", "c", "d"], 2)
    'a, b and 2 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
