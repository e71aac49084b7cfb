"""Parameters in a sweep over policies: `policy.x=1` is for those that have `x`."""

from collections.abc import Iterable, Mapping
from typing import Any

from tokencake.experiments.errors import UsageError
from tokencake.policies import registry
from tokencake.policies.hints import did_you_mean
from tokencake.policies.params import PolicyError


def check_params(policies: Iterable[Mapping[str, Any]]) -> None:
    """Check that each parameter is one of some policy's.

    Args:
        policies: The `policy` sections of a sweep's jobs.

    Raises:
        UsageError: a parameter that none of them has, or a policy that is not there.
    """
    sections = {section["name"]: section for section in policies}
    known = [key for name in sections for key in _keys(name) if key != "name"]
    for section in sections.values():
        for key in section:
            if key != "name" and key not in known:
                hint = did_you_mean(key, set(known))
                raise UsageError(f"policy.{key}: no parameter of {', '.join(sections)}; {hint}")


def own_params(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without parameters that its policy does not have."""
    policy = config["policy"]
    keys = _keys(policy["name"])
    return dict(config) | {"policy": {key: value for key, value in policy.items() if key in keys}}


def _keys(name: str) -> tuple[str, ...]:
    try:
        return ("name", *(param.name for param in registry.describe(name).params))
    except PolicyError as error:
        raise UsageError(str(error)) from error
