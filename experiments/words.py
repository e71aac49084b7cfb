"""Counts as one says them."""


def counted(number: int, noun: str) -> str:
    """A number and what it counts.

    >>> counted(1, "program"), counted(0, "call"), counted(2, "finished job")
    ('1 program', '0 calls', '2 finished jobs')
    """
    return f"{number} {noun}{'s' * (number != 1)}"
