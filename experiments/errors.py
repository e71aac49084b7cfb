"""What a user can get wrong, as one clear line; the command line maps it to exit code 2."""


class UsageError(Exception):
    """A mistake in the command or its input; `str()` is one line that names the thing, its value and the rule."""


def one_line(text: str) -> str:
    r"""The text with line breaks and indentation folded away.

    >>> one_line("a\n  b")
    'a b'
    """
    return " ".join(text.split())
