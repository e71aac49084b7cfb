"""What a user can get wrong, as one clear line; the command line maps it to exit code 2."""

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """A mistake in the command or its input; `str()` is one line that names the thing, its value and the rule."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt word: the closest known word, else all of them.

    >>> did_you_mean("vlm", ["vllm", "vllm-offload"])
    "did you mean 'vllm'? (known: vllm, vllm-offload)"
    >>> did_you_mean("a800", ["a800-qwen2.5-14b"])
    "did you mean 'a800-qwen2.5-14b'? (known: a800-qwen2.5-14b)"
    >>> did_you_mean("zzz", ["vllm"])
    'known: vllm'
    """
    names = sorted(known)
    listed = "known: " + (", ".join(names) or "none")
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5) or [n for n in names if word and n.startswith(word)]
    return f"did you mean '{close[0]}'? ({listed})" if close else listed


def one_line(text: str) -> str:
    r"""The text with line breaks and indentation folded away.

    >>> one_line("a\n  b")
    'a b'
    """
    return " ".join(text.split())
