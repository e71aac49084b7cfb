"""Which code decided: digests of the modules that classes from outside this repository stand in."""

import hashlib
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType

from tokencake.policies.api import Policy
from tokencake.policies.compose import parts_of

_NOT_THEIRS = sys.stdlib_module_names | {"tokencake"}


def code_of(policy: Policy) -> Mapping[str, str]:
    """SHA-256 of the source file of each module, by the module's name; parts of a composition and base classes count.

    What those modules import in turn does not.
    """
    modules = {cls.__module__ for part in parts_of(policy) for cls in type(part).__mro__}
    theirs = sorted(name for name in modules if name.partition(".")[0] not in _NOT_THEIRS)
    digests = {name: _digest(sys.modules[name]) for name in theirs}
    return {name: digest for name, digest in digests.items() if digest is not None}


@cache
def _digest(module: ModuleType) -> str | None:
    """Taken when the module has just been imported: what its file becomes later is not what runs."""
    file = getattr(module, "__file__", None)
    return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()
