"""What policies are called in tables, figures and messages: short, and different where policies differ."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokencake.experiments.keys import as_typed, flatten
from tokencake.policies import registry
from tokencake.policies.compose import HOOKS

Policy = Mapping[str, Any]
"""The `policy` section of a configuration."""


def policy_name(policy: Policy) -> str:
    """What a policy is called by itself.

    >>> policy_name({"name": "custom", "target": "my_module:KeepShort", "params": {"longest_s": 2}})
    'KeepShort'
    >>> policy_name({"name": "compose", "order": "autellix", "place": "my_module:KeepShort", "store": None})
    'compose(order=autellix, place=KeepShort)'
    """
    policy = _short_form(policy)
    return _call(_class(policy.get("name", "?")), _parts(policy))


def policy_labels(policies: Sequence[Policy]) -> list[str]:
    """What each of several is called beside the others: with the parameters in which those of one name differ.

    >>> policy_labels([{"name": "a", "x": 1, "y": 2}, {"name": "a", "x": 3, "y": 2}, {"name": "b"}])
    ['a(x=1)', 'a(x=3)', 'b']
    """
    policies = [_short_form(policy) for policy in policies]
    names = [policy_name(policy) for policy in policies]
    identities = [_identity(policy) for policy in policies]
    labels = []
    for policy, name, identity in zip(policies, names, identities, strict=True):
        # Two classes of one name: their modules tell them apart.
        whole = any(n == name and i != identity for n, i in zip(names, identities, strict=True))
        own = [_params(other) for other, i in zip(policies, identities, strict=True) if i == identity]
        differing = _differing(own)
        params = {key: value for key, value in _params(policy).items() if key in differing and value is not None}
        labels.append(
            _call(_class(policy.get("name", "?"), whole=whole), _parts(policy, whole=whole) | _shortened(params))
        )
    return labels


def _short_form(policy: Policy) -> Policy:
    """`policy=custom policy.target=module:Class policy.params.x=1` as `policy=module:Class policy.x=1`."""
    if policy.get("name") != registry.CUSTOM or not policy.get("target"):
        return policy
    rest = {key: value for key, value in policy.items() if key not in ("target", "params")}
    return rest | (policy.get("params") or {}) | {"name": policy["target"]}


def _class(target: object, *, whole: bool = False) -> str:
    """The class of `module:Class`; a registered name as it is."""
    return str(target) if whole else str(target).rpartition(":")[2]


def _parts(policy: Policy, *, whole: bool = False) -> dict[str, Any]:
    if policy.get("name") != registry.COMPOSE:
        return {}
    return {hook: _class(policy[hook], whole=whole) for hook in HOOKS if policy.get(hook) is not None}


def _identity(policy: Policy) -> tuple[object, ...]:
    """What makes two sections the same policy, parameters aside."""
    parts = (policy.get(hook) for hook in HOOKS) if policy.get("name") == registry.COMPOSE else ()
    return (policy.get("name"), *parts)


def _params(policy: Policy) -> dict[str, Any]:
    """Parameters as dotted names."""
    known = {"name", *(HOOKS if policy.get("name") == registry.COMPOSE else ())}
    flat = flatten({key: value for key, value in policy.items() if key not in known})
    return {key.removeprefix("params."): value for key, value in flat.items()}


def _differing(params: Sequence[Mapping[str, Any]]) -> set[str]:
    return {key for own in params for key in own if len({repr(other.get(key)) for other in params}) > 1}


def _shortened(params: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names without what is not needed to tell them apart."""
    last = [key.rpartition(".")[2] for key in params]
    return {short if last.count(short) == 1 else key: params[key] for short, key in zip(last, params, strict=True)}


def _call(name: str, arguments: Mapping[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={as_typed(value)}' for key, value in arguments.items())})" if arguments else name
