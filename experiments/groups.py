"""Hydra groups made from what the code knows: policies, trace generators, hardware profiles.

There is one file a policy, generator or profile already; a YAML file for each would only repeat it.
"""

from collections.abc import Iterable
from dataclasses import MISSING, asdict, fields
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from tokencake.engine.config import LiveConfig
from tokencake.experiments.errors import UsageError
from tokencake.experiments.inputs import FILE_TRACE, parameters
from tokencake.experiments.overrides import choices
from tokencake.experiments.settings import HARDWARE_DEFAULTS, PROFILE_KEYS, Bounds
from tokencake.policies import registry
from tokencake.policies.params import PolicyError
from tokencake.sim.config import EngineConfig, LinkConfig, WorkloadConfig
from tokencake.sim.latency.profiles import profile_names
from tokencake.traces.generators import GENERATORS

GROUPS = ("policy", "trace", "hardware", "experiment")
_PLAIN = (type(None), bool, int, float, str)


def register() -> None:
    """Make the groups known to Hydra."""
    store = ConfigStore.instance()
    store.store(name="host_defaults", node=_host())
    for name in (*registry.names(), registry.CUSTOM, registry.COMPOSE):
        params = {param.name: param.default for param in registry.describe(name).params}
        store.store(group="policy", name=name, node={"name": name} | params)
    store.store(group="trace", name="file", node=dict(FILE_TRACE))
    for name, generator in GENERATORS.items():
        store.store(group="trace", name=name, node={"source": name} | parameters(generator))
    for name in profile_names():
        store.store(group="hardware", name=name, node={"profile": name, **HARDWARE_DEFAULTS})


def register_classes(parsed: Iterable[Override]) -> None:
    """Make the classes known to Hydra that overrides name as `policy=module:Class`.

    Raises:
        UsageError: there is no such class, or it is no policy.
    """
    for override in parsed:
        if override.key_or_group != "policy" or override.is_delete():
            continue
        for name in choices(override):
            if ":" in name:
                register_class(name)


def register_class(name: str) -> None:
    """Make a class known to Hydra, with its parameters; of their defaults, those that YAML knows.

    Raises:
        UsageError: there is no such class, or it is no policy.
    """
    try:
        params = registry.describe(name).params
    except PolicyError as error:
        raise UsageError(str(error)) from error
    node = {p.name: p.default for p in params if type(p.default) in _PLAIN} | {"name": name}
    ConfigStore.instance().store(group="policy", name=name, node=node)


def _host() -> dict[str, Any]:
    """Host settings and their defaults; null is what the hardware profile says."""
    engine = {
        f.name: None if f.name in PROFILE_KEYS or f.default is MISSING else f.default for f in fields(EngineConfig)
    }
    return {
        # Which parameters a policy has is for the policy to say: it knows better words than Hydra.
        "policy": OmegaConf.create({}, flags={"struct": False}),
        "engine": engine | {"cpu_gib": 64.0},
        "link": {f.name: None for f in fields(LinkConfig) if f.name != "free"},
        "workload": asdict(WorkloadConfig()),
        "bounds": asdict(Bounds()),
        "noise": 0.5,
        "live": asdict(LiveConfig()),
    }
