"""The engine hosts' front door; can be imported without vLLM."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from tokencake.engine.install import require
from tokencake.engine.models import Model, ModelError, find_model
from tokencake.policies.api import Policy
from tokencake.sim.config import ConfigError, SimConfig
from tokencake.sim.latency.recorded import RecordedLatency
from tokencake.sim.latency.scatter import ScatterLatency
from tokencake.sim.records import RunResult
from tokencake.sim.run import timed
from tokencake.traces.schema import Program

if TYPE_CHECKING:
    from tokencake.engine.config import LiveConfig
    from tokencake.engine.runtime import Runtime


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
    result, _ = timed(host, lambda: host.run(progress))
    return result


def run_live(
    programs: Iterable[Program],
    config: SimConfig,
    policy: Policy,
    live: LiveConfig,
    *,
    progress: Callable[[int], None] | None = None,
    runtime: Runtime | None = None,
) -> RunResult:
    """Replay programs through vLLM with a model; arguments and result as :func:`tokencake.sim.run.simulate`.

    After an interrupt (SIGINT) the result holds what is finished; its summary says ``interrupted``.

    Args:
        programs: Programs in order of arrival.
        config: Engine, hardware and replay.
        policy: A fresh policy object.
        live: Model, clock and copies.
        progress: Called with the number of programs done.
        runtime: A loaded model that is idle; by default the last one, if it fits, or a new one.

    Raises:
        ConfigError: The configuration is one that the engine does not have.
        EngineMissingError: vLLM is not installed.
        EngineStartError: vLLM refuses the model or the sizes.
        StuckError: The policy leaves calls waiting for ever.
    """
    model = check_live(config, live)
    require()
    from tokencake.engine.live import live_host, play
    from tokencake.engine.runtime import Limits, shared_runtime

    if runtime is None:
        runtime = shared_runtime(model, Limits.of(config.engine), live.load_format)
    host = live_host(config, policy, programs, runtime, live)
    result, finished = timed(host, lambda: play(host, progress))
    result.steps = host.steps
    result.copies = host.link.copied if live.copies == "measured" and config.engine.cpu_blocks else None
    if not finished:
        result.summary["interrupted"] = True
    return result


def check_live(config: SimConfig, live: LiveConfig) -> Model:
    """Find the model, and refuse what the live engine cannot do with it.

    Raises:
        ConfigError: naming the key.
    """
    check(config)
    if config.engine.async_scheduling:
        raise ConfigError("engine.async_scheduling must be false with host=live")
    if config.link.free:
        raise ConfigError("bounds.free_transfer needs host=sim or host=virtual: copies take time")
    for kind, need in (
        (ScatterLatency, "hardware.jitter and hardware.drift need"),
        (RecordedLatency, "hardware.recorded needs"),
    ):
        if isinstance(config.latency, kind):
            raise ConfigError(f"{need} host=sim or host=virtual: a live engine's steps take what they take")
    try:
        model = find_model(live.model, dtype=live.dtype)
    except ModelError as error:
        raise ConfigError(f"live.{error}") from None
    ours, theirs = config.kv_bytes_per_token, model.shape.kv_bytes_per_token
    if ours != theirs:
        raise ConfigError(
            f"live.model={live.model} has {theirs} bytes of KV a token, the hardware profile's model {ours}:"
            " a profile is for one model (tokencake calibrate makes one)"
        )
    if config.engine.max_model_len > model.max_len:
        rule = f"<= {model.max_len}, the model's positions"
        raise ConfigError(f"engine.max_model_len must be {rule}, got {config.engine.max_model_len}")
    return model


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
    if config.engine.cpu_blocks and not config.engine.prefix_caching:
        raise ConfigError("engine.prefix_caching must be true with a CPU tier on a vLLM host")
    if config.engine.version != "0.32":
        raise ConfigError(f"engine.version must be 0.32 on a vLLM host, got {config.engine.version}")
