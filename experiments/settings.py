"""From a composed configuration to the frozen values that a host takes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from tokencake.experiments.errors import UsageError
from tokencake.experiments.recording import read_copies, read_steps
from tokencake.sim import section
from tokencake.sim.config import EngineConfig, LinkConfig, SimConfig, WorkloadConfig
from tokencake.sim.latency.base import LatencyModel
from tokencake.sim.latency.hardware import HardwareProfile
from tokencake.sim.latency.profiles import load_profile
from tokencake.sim.latency.recorded import RecordedLatency
from tokencake.sim.latency.scatter import Scatter, ScatterLatency

_GIB = 2**30
# Engine settings that a hardware profile answers, or that follow from it.
_OF_PROFILE = ("block_size", "max_num_batched_tokens", "max_num_seqs", "max_model_len", "async_scheduling")
PROFILE_KEYS = ("gpu_blocks", "cpu_blocks", *_OF_PROFILE)
# What a run may say of step times beside its profile: whose are replayed, or how they scatter and which draw it is.
HARDWARE_DEFAULTS: Mapping[str, Any] = {"recorded": None, "jitter": 0.0, "drift": 0.0, "drift_s": 0.0, "draw": 0}
_LARGEST, _SMALLEST = 1e12, 1e-12  # magnitudes of numbers but 0; beyond, times and sizes no longer fit their columns
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Upper bounds: what no machine does, to see how much there is to win.

    Attributes:
        infinite_kv: nothing is ever evicted.
        free_transfer: transfers take no time.
        free_recompute: recomputing takes no time.
    """

    infinite_kv: bool = False
    free_transfer: bool = False
    free_recompute: bool = False


def build(cls: type[_T], values: Mapping[str, Any], where: str) -> _T:
    """Make a dataclass from configuration values, checking keys and types.

    Raises:
        UsageError: naming the key, the rule and the value.
    """
    try:
        for key, value in values.items():
            _check_magnitude(value, f"{where}.{key}")
        return section.build(cls, values, where)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _typed(value: Any, hint: Any, where: str) -> Any:
    try:
        _check_magnitude(value, where)
        return section.setting(value, hint, where)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _check_magnitude(value: Any, where: str) -> None:
    if type(value) in (int, float) and value and (abs(value) > _LARGEST or abs(value) < _SMALLEST):
        raise ValueError(f"{where}: must be 0 or from {_SMALLEST:g} to {_LARGEST:g} in magnitude, got {value}")


def profile_of(config: Mapping[str, Any]) -> HardwareProfile:
    """The hardware profile that a configuration names.

    Raises:
        UsageError: there is none of that name, or its file is wrong.
    """
    name = config["hardware"].get("profile")
    if not isinstance(name, str):
        raise UsageError("hardware: missing; choose one: tokencake hardware")
    try:
        return load_profile(name)
    except ValueError as error:
        raise UsageError(str(error)) from error


def sim_config(config: Mapping[str, Any], profile: HardwareProfile) -> SimConfig:
    """Everything the simulator needs besides programs and policy; null keys take the hardware profile's value.

    Raises:
        UsageError: naming the key, the rule and the value.
    """
    bounds = build(Bounds, config["bounds"], "bounds")
    link = _filled(config["link"], **asdict(profile.link)) | {"free": bounds.free_transfer}
    hardware = {**HARDWARE_DEFAULTS, **config["hardware"]}
    latency, one_by_one = _latency(hardware, profile)
    if one_by_one:
        config = {**config, "engine": {**config["engine"], "jumps": False}}
    seed = config["seed"]
    if type(seed) is not int:
        raise UsageError(f"seed: must be int, got {seed!r}")
    try:
        return SimConfig(
            engine=build(EngineConfig, _engine(config["engine"], profile), "engine"),
            latency=latency,
            kv_bytes_per_token=profile.model.kv_bytes_per_token,
            link=build(LinkConfig, link, "link"),
            workload=build(WorkloadConfig, config["workload"], "workload"),
            infinite_kv=bounds.infinite_kv,
            free_recompute=bounds.free_recompute,
            noise=_typed(config["noise"], float, "noise"),
            seed=seed,
            log_decisions=_typed(config["log"].get("decisions"), bool, "log.decisions"),
            copies=None if hardware["recorded"] is None else read_copies(Path(str(hardware["recorded"]))),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def _latency(hardware: Mapping[str, Any], profile: HardwareProfile) -> tuple[LatencyModel, bool]:
    """What steps cost, and whether every step has a time of its own, so that none may be jumped over."""
    model = profile.latency_model()
    recorded, draw = hardware["recorded"], _typed(hardware["draw"], int, "hardware.draw")
    deviations = {key: _typed(hardware[key], float, f"hardware.{key}") for key in ("jitter", "drift", "drift_s")}
    if recorded is not None:
        for key, value in (*deviations.items(), ("draw", draw)):
            if value:
                raise UsageError(f"hardware.{key}: must be 0 with hardware.recorded, got {value}")
        return RecordedLatency(model, read_steps(Path(str(recorded)))), True
    try:
        scatter = Scatter(**deviations)
    except ValueError as error:
        raise UsageError(f"hardware.{error}") from error
    if draw and not scatter:
        rule = "must be 0 without hardware.jitter or hardware.drift"
        raise UsageError(f"hardware.draw: {rule}, got {draw}: its runs would all be equal")
    return (ScatterLatency(model, scatter, draw), True) if scatter else (model, False)


def _engine(values: Mapping[str, Any], profile: HardwareProfile) -> dict[str, Any]:
    own = profile.engine
    defaults = asdict(own)
    filled = _filled(values, **{key: defaults[key] for key in _OF_PROFILE})
    size = _typed(filled["block_size"], int, "engine.block_size")
    if size <= 0:
        raise UsageError(f"engine.block_size: must be > 0, got {size}")
    # The profile counts blocks of its own size and vLLM's null block, which no call can use.
    usable = (profile.gpu_blocks - 1) * own.block_size // size
    cpu_gib = _typed(filled.pop("cpu_gib", 0.0), float, "engine.cpu_gib")
    if not 0 <= cpu_gib < 1e6:
        raise UsageError(f"engine.cpu_gib: must be >= 0 and < 1e6, got {cpu_gib}")
    cpu_blocks = int(cpu_gib * _GIB) // (profile.model.kv_bytes_per_token * size)
    return _filled(filled, gpu_blocks=usable, cpu_blocks=cpu_blocks)


def _filled(values: Mapping[str, Any], **defaults: Any) -> dict[str, Any]:
    """The values, with defaults where they are null or missing."""
    return {key: value for key, value in values.items() if value is not None or key not in defaults} | {
        key: default for key, default in defaults.items() if values.get(key) is None
    }
