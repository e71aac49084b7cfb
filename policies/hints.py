"""What was probably meant by a word that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_FEW = 8
_CLOSE = 3


def did_you_mean(word: str, known: Iterable[str], everything: str = "") -> str:
    """A hint for a misspelt word: the known words close to it, and what else there is as far as that is short.

    Args:
        word: What was typed.
        known: What there is.
        everything: Command that lists all, for long lists.

    >>> did_you_mean("vlm", ["vllm", "vllm-offload"])
    "did you mean 'vllm'? (known: vllm, vllm-offload)"
    >>> did_you_mean("a800", ["a800-qwen2.5-14b"])
    "did you mean 'a800-qwen2.5-14b'? (known: a800-qwen2.5-14b)"
    >>> did_you_mean("x7", [f"x{i}" for i in range(7)] + ["longer", "words"], "tokencake things")
    "did you mean 'x6'? (or x5, x4; all 9: tokencake things)"
    >>> did_you_mean("zzz", ["vllm"])
    'known: vllm'
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=_CLOSE, cutoff=0.5)
    close += [name for name in names if word and name.startswith(word) and name not in close][: _CLOSE - len(close)]
    few = len(names) <= _FEW
    if few or not (close or everything):
        rest = ["known: " + (", ".join(names) or "none")]
    else:
        rest = ["or " + ", ".join(close[1:])] if close[1:] else []
        rest += [f"all {len(names)}: {everything}"] if everything else []
    told = "; ".join(rest)
    if not close:
        return told
    return f"did you mean '{close[0]}'?" + (f" ({told})" if told else "")
