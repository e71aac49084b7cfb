"""Methods that look like hooks and are none: a host would never ask them."""

from __future__ import annotations

from tokencake.policies.answers import HOOKS
from tokencake.policies.api import Policy


def misspelt_hooks(policy: type[Policy]) -> list[str]:
    """What to say of public methods whose names are one slip away from a hook that the class does not override.

    >>> class Mine(Policy):
    ...     def obsrve(self, event, view): ...
    >>> misspelt_hooks(Mine)
    ['Mine: method obsrve is no hook and is never asked; did you mean observe?']
    """
    own = [name for name in dir(policy) if not name.startswith("_") and not hasattr(Policy, name)]
    missing = [hook for hook in HOOKS if getattr(policy, hook, None) is getattr(Policy, hook)]
    return [
        f"{policy.__name__}: method {name} is no hook and is never asked; did you mean {hook}?"
        for name in own
        if callable(getattr(policy, name, None))
        for hook in missing
        if _one_slip(name, hook)
    ]


def _one_slip(word: str, other: str) -> bool:
    """Whether two different words differ by one letter that is missing, too many or wrong, or by two that are swapped.

    >>> [_one_slip(word, "order") for word in ("ordr", "orrder", "orfer", "oredr", "orders", "odrre", "order")]
    [True, True, True, True, True, False, False]
    """
    at = next((i for i, (a, b) in enumerate(zip(word, other, strict=False)) if a != b), min(len(word), len(other)))
    a, b = word[at:], other[at:]
    swapped = len(a) > 1 and a[:2] == b[1::-1] and a[2:] == b[2:]
    return word != other and (a[1:] == b[1:] or a[1:] == b or a == b[1:] or swapped)
