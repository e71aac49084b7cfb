"""Makes a hardware profile for a model that tokencake does not ship."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

import yaml

from tokencake.policies.hints import did_you_mean
from tokencake.sim.latency.fit import geometric, monotone_curve, monotone_grid
from tokencake.sim.latency.hardware import HardwareProfile
from tokencake.sim.latency.kernels import PACKAGE, Kernels
from tokencake.sim.latency.model_config import ModelConfig, read_config
from tokencake.sim.latency.profiles import ProfileError, parse_profile
from tokencake.sim.latency.shape import GPUSpec
from tokencake.sim.latency.table import LatencyTable, TableLatency
from tokencake.traces.errors import BadInput
from tokencake.traces.files import writing

MAX_CALLS: Final = 1024
MAX_STEP_TOKENS: Final = 32_768
MAX_CHUNK: Final = 16_384
MAX_CONTEXT: Final = 262_144
TOLERANCE: Final = 0.002
"""Largest relative error of the curves at the points probed while they were made."""

_PS_PER_MS: Final = 1e9


@dataclass(frozen=True, slots=True)
class System:
    """A device, and the settings that vLLM 0.32 or its data sheet gives it.

    Attributes:
        gpu: Memory as PyTorch reports it, data sheet's dense BF16 rate and bandwidth.
        link_gb_s: Each way between GPU and host, in 10^9 bytes/s.
        max_num_batched_tokens: vLLM's default for its server on this device.
        max_num_seqs: Likewise.
    """

    gpu: GPUSpec
    link_gb_s: float
    max_num_batched_tokens: int
    max_num_seqs: int


SYSTEMS: Final[Mapping[str, System]] = {
    "a100_sxm": System(GPUSpec("NVIDIA A100-SXM4-80GB", 79.2, 312.0, 2039.0), 25.0, 2048, 256),
    "h100_sxm": System(GPUSpec("NVIDIA H100-SXM5-80GB", 79.2, 989.4, 3350.0), 50.0, 8192, 1024),
    "h200_sxm": System(GPUSpec("NVIDIA H200-SXM-141GB", 139.8, 989.4, 4800.0), 50.0, 8192, 1024),
}


def build_profile(
    config_dir: str | Path,
    system: str,
    out: str | Path,
    *,
    max_model_len: int | None = None,
    overwrite: bool = False,
) -> HardwareProfile:
    """Write a hardware profile, and its latency table beside it, and return the profile.

    The table comes from measured kernels where ``aiconfigurator-core`` is installed (extra
    ``hardware``); elsewhere the profile uses the roofline and no table is written.

    Args:
        config_dir: Folder with a Hugging Face ``config.json`` of a dense full-attention model.
        system: One of `SYSTEMS`.
        out: The profile to write, ``NAME.yaml``; the table is ``NAME.table.json``.
        max_model_len: Most tokens of a call; the config's own limit by default.
        overwrite: Replace files that exist.

    Raises:
        ProfileError: Unknown system, unusable config, a model that does not fit, or ``out`` exists
            or cannot be written.
    """
    folder, path = Path(config_dir), Path(out)
    if path.suffix not in (".yaml", ".yml"):
        raise ProfileError(f"out must end in .yaml, got {path}")
    table_path = path.with_suffix(".table.json")
    _check_free(path, table_path, overwrite=overwrite)
    device = _system(system)
    config = _read(folder)
    model = config.shape
    try:
        table = build_table(folder, system)
    except ModuleNotFoundError:
        table = None
    latency: dict[str, Any] = {"kind": "roofline"} if table is None else {"kind": "table", "file": table_path.name}
    engine = {
        "max_model_len": config.max_len if max_model_len is None else max_model_len,
        "max_num_batched_tokens": device.max_num_batched_tokens,
        "max_num_seqs": device.max_num_seqs,
    }
    source = f"{PACKAGE}'s kernels" if table else "the roofline"
    data = {
        "description": f"{model.name} on one {device.gpu.name}; step times from {source}.",
        "model": asdict(model),
        "gpu": asdict(device.gpu),
        "engine": engine,
        "link": {"d2h_gb_s": device.link_gb_s, "h2d_gb_s": device.link_gb_s},
        "latency": latency,
    }
    profile = parse_profile(data, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path, overwrite=overwrite) as out_file:  # it appears when the table is there
            out_file.write(yaml.safe_dump(data, sort_keys=False, allow_unicode=True).encode())
            if table is not None:
                with writing(table_path, overwrite=overwrite) as table_file:
                    table_file.write(table.to_json().encode())
    except OSError as error:
        raise ProfileError(f"{path}: cannot be written: {error.strerror}") from None
    except BadInput as error:
        raise ProfileError(str(error)) from None
    return profile


def _check_free(*paths: Path, overwrite: bool) -> None:
    """Find out before the table is made, which takes a while, that it could not be written."""
    for path in paths:
        if path.exists() and not overwrite:
            raise ProfileError(f"{path} exists; choose another, or replace it with --overwrite")
        if path.is_dir():
            raise ProfileError(f"{path} is a directory")
    parent = next(folder for folder in paths[0].absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ProfileError(f"{paths[0]}: {parent} is not a writable directory")


def build_table(config_dir: str | Path, system: str) -> LatencyTable:
    """Make a latency table from measured kernels, with its held-out error under ``source``.

    Raises:
        ModuleNotFoundError: ``aiconfigurator-core`` is not installed.
        ProfileError: Unknown system, or a model that the package or this project cannot model.
    """
    _system(system)
    folder = Path(config_dir)
    model = _read(folder).shape
    try:
        kernels = Kernels(folder, system, model)
    except ValueError as error:
        raise ProfileError(" ".join(str(error).split())) from None
    table = LatencyTable(
        layers=monotone_curve(kernels.layers_ms, MAX_STEP_TOKENS, TOLERANCE),
        head=monotone_curve(kernels.head_ms, MAX_CALLS, TOLERANCE),
        prefill_attention=monotone_grid(
            kernels.prefill_attention_ms,
            [1, 2, 4, 8, *geometric(16, MAX_CHUNK, 4)],
            [0, 16, 32, 64, 128, 192, *geometric(256, MAX_CONTEXT, 2)],
        ),
        decode_attention=monotone_grid(
            kernels.decode_attention_ms,
            [1, 2, 3, *geometric(4, MAX_CALLS, 2)],
            [1, 16, 32, 64, 96, *geometric(128, MAX_CONTEXT, 2)],
        ),
        measured=replace(
            kernels.measured,
            decodes=min(kernels.measured.decodes, MAX_CALLS),
            step_tokens=min(kernels.measured.step_tokens, MAX_STEP_TOKENS),
        ),
        source={},
    )
    source = kernels.provenance | {"system": system, "model": asdict(model)}
    return replace(table, source=source | {"held_out": held_out(table, kernels)})


def held_out(table: LatencyTable, kernels: Kernels, points: int = 400, seed: int = 1) -> dict[str, dict[str, float]]:
    """Return the table's relative error at random steps, in percent: median, p95 and max by kind.

    Sizes are drawn log-uniformly over the measured range: up to 256 calls, 8,192 new tokens.
    """
    rng = random.Random(seed)
    model = TableLatency(table)
    measured = table.measured

    def draw(low: int, high: int) -> int:
        return int(low * (high / low) ** rng.random())

    def decode() -> tuple[int, int]:
        calls = draw(1, 256)
        return calls, draw(32, min(measured.decode_context, measured.decode_context_sum // calls))

    def chunk() -> tuple[int, int]:
        new = draw(16, 8192)
        return new, draw(16, measured.prefill_length - new)

    def decode_error() -> float:
        calls, context = decode()
        return model.decode_ps(calls, calls * context) / _PS_PER_MS / kernels.decode_ms(calls, context)

    def prefill_error() -> float:
        new, context = chunk()
        return model.prefill_ps(new, context) / _PS_PER_MS / kernels.prefill_ms(new, context)

    def mixed_error() -> float:
        new, before = chunk()
        calls, context = decode()
        time = model.step_ps([(new, before)], calls, calls * context) / _PS_PER_MS
        return time / kernels.mixed_ms(new, before, calls, context)

    return {
        "decode": _spread(decode_error, points),
        "prefill": _spread(prefill_error, points),
        "mixed": _spread(mixed_error, points),
    }


def _spread(ratio: Callable[[], float], points: int) -> dict[str, float]:
    errors = sorted(abs(ratio() - 1) * 100 for _ in range(points))
    p95 = quantiles(errors, n=20)[-1]
    return {"median": round(median(errors), 2), "p95": round(p95, 2), "max": round(errors[-1], 2)}


def _read(folder: Path) -> ModelConfig:
    try:
        return read_config(folder)
    except ValueError as error:
        raise ProfileError(str(error)) from None


def _system(name: str) -> System:
    if name not in SYSTEMS:
        raise ProfileError(f"unknown system {name!r}; {did_you_mean(name, SYSTEMS)}")
    return SYSTEMS[name]
