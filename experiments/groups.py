"""Hydra groups made from what the code knows: policies, trace generators, hardware profiles.

There is one file a policy, generator or profile already; a YAML file for each would only repeat it.
"""

from dataclasses import MISSING, asdict, fields
from typing import Any

from hydra.core.config_store import ConfigStore

from tokencake.engine.config import LiveConfig
from tokencake.experiments.inputs import FILE_TRACE, parameters
from tokencake.experiments.settings import HARDWARE_DEFAULTS, PROFILE_KEYS, Bounds
from tokencake.policies import registry
from tokencake.policies.compose import HOOKS
from tokencake.sim.config import EngineConfig, LinkConfig, WorkloadConfig
from tokencake.sim.latency.profiles import profile_names
from tokencake.traces.generators import GENERATORS

GROUPS = ("policy", "trace", "hardware", "experiment")


def register() -> None:
    """Make the groups known to Hydra."""
    store = ConfigStore.instance()
    store.store(name="host_defaults", node=_host())
    for name in registry.names():
        params = {param.name: param.default for param in registry.describe(name).params}
        store.store(group="policy", name=name, node={"name": name} | params)
    free: dict[str, Any] = {"info": None, "params": {}}
    store.store(group="policy", name=registry.CUSTOM, node={"name": registry.CUSTOM, "target": None} | free)
    parts = dict.fromkeys(HOOKS)
    store.store(group="policy", name=registry.COMPOSE, node={"name": registry.COMPOSE} | parts | free)
    store.store(group="trace", name="file", node=dict(FILE_TRACE))
    for name, generator in GENERATORS.items():
        store.store(group="trace", name=name, node={"source": name} | parameters(generator))
    for name in profile_names():
        store.store(group="hardware", name=name, node={"profile": name, **HARDWARE_DEFAULTS})


def _host() -> dict[str, Any]:
    """Host settings and their defaults; null is what the hardware profile says."""
    engine = {
        f.name: None if f.name in PROFILE_KEYS or f.default is MISSING else f.default for f in fields(EngineConfig)
    }
    return {
        "engine": engine | {"cpu_gib": 64.0},
        "link": {f.name: None for f in fields(LinkConfig) if f.name != "free"},
        "workload": asdict(WorkloadConfig()),
        "bounds": asdict(Bounds()),
        "noise": 0.5,
        "live": asdict(LiveConfig()),
    }
