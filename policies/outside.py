"""Policies from outside the repository: a class named as ``module:Class``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from tokencake.policies.api import Policy
from tokencake.policies.hints import did_you_mean
from tokencake.policies.params import PolicyError


def load(target: str, where: str) -> type[Policy]:
    """Import a policy class.

    Args:
        target: ``module:Class``; modules in the working directory count.
        where: Name of the parameter, for errors.

    Raises:
        PolicyError: It cannot be imported, or is no policy.
    """
    where = f"{where} {target!r}"
    module_name, colon, class_name = target.partition(":")
    if not (module_name and colon and class_name):
        raise PolicyError(f"{where}: must be module:Class")
    here = str(Path.cwd())
    if here not in sys.path:  # a console script does not look where it is started
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise PolicyError(f"{where}: there is no module {module_name!r}") from error
        raise PolicyError(f"{where}: cannot import {module_name}: {error}") from error
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise PolicyError(f"{where}: cannot import {module_name}: {text}") from error
    policy = getattr(module, class_name, None)
    if policy is None:
        found = [name for name, value in vars(module).items() if _is_policy(value) and value is not Policy]
        raise PolicyError(f"{where}: {module_name} has no {class_name!r}; {did_you_mean(class_name, found)}")
    need_policy(policy, where)
    return policy  # type: ignore[no-any-return]


def _is_policy(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Policy)


def need_policy(value: object, where: str) -> None:
    """Check that a value is a policy class.

    Raises:
        PolicyError: It is not.
    """
    if not _is_policy(value):
        raise PolicyError(f"{where}: must be a subclass of tokencake.policies.api.Policy, got {value!r}")
