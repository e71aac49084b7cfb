"""The engine hosts' front door; can be imported without vLLM."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable

from tokencake.engine.install import require
from tokencake.policies.api import Policy
from tokencake.sim.config import ConfigError, SimConfig
from tokencake.sim.records import RunResult
from tokencake.traces.schema import Program


def run_virtual(
    programs: Iterable[Program],
    config: SimConfig,
    policy: Policy,
    *,
    progress: Callable[[int], None] | None = None,
) -> RunResult:
    """Replay programs through vLLM's scheduler; arguments and result as :func:`tokencake.sim.run.simulate`.

    Raises:
        ConfigError: The configuration is one that vLLM does not have.
        EngineMissingError: vLLM is not installed.
        StuckError: The policy leaves calls waiting for ever.
    """
    check(config)
    require()
    from tokencake.engine.virtual import virtual_host

    host = virtual_host(config, policy, programs)
    wall, cpu = time.perf_counter(), time.process_time()
    host.run(progress)
    timing = {"loop_cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    result = host.metrics.result(timing)
    timing["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result


def check(config: SimConfig) -> None:
    """Refuse what only a simulator can do.

    Raises:
        ConfigError: naming the key.
    """
    for name, value in (
        ("bounds.infinite_kv", config.infinite_kv),
        ("bounds.free_recompute", config.free_recompute),
    ):
        if value:
            raise ConfigError(f"{name} needs host=sim: no engine does that")
    if config.engine.cpu_blocks:
        raise ConfigError(f"engine.cpu_blocks must be 0 on a vLLM host, got {config.engine.cpu_blocks}")
    if config.engine.version != "0.32":
        raise ConfigError(f"engine.version must be 0.32 on a vLLM host, got {config.engine.version}")
