"""`tokencake calibrate`: what steps and copies cost on this machine, as a hardware profile."""

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tokencake.engine import install
from tokencake.engine.models import TINY, Model, ModelError, find_model
from tokencake.experiments.arguments import Parser
from tokencake.experiments.errors import UsageError
from tokencake.experiments.progress import progress
from tokencake.sim.latency.hardware import HardwareProfile
from tokencake.sim.latency.profiles import ProfileError, parse_profile
from tokencake.traces.files import writing

if TYPE_CHECKING:
    from tokencake.engine.calibrate import Calibration
    from tokencake.engine.runtime import Limits

_LEAST_S, _MOST_S = 5.0, 86_400.0


def run(words: Sequence[str]) -> None:
    """Calibrate and write the profile and the raw steps beside it.

    Raises:
        UsageError: no usable vLLM or model, a bad number, or an output that is there already.
    """
    chosen = _parser().parse_args(words)
    raw = chosen.out.with_suffix(".steps.parquet")
    _check(chosen, raw)
    try:
        install.require()
        model = find_model(chosen.model, dtype=chosen.dtype)
    except (install.EngineMissingError, ModelError) as error:
        raise UsageError(str(error)) from error
    limits = _limits(chosen, model)
    calibration = _measure(chosen, model, limits)
    data = _profile(model, limits, calibration, chosen.seconds)
    try:
        profile = parse_profile(data, chosen.out)
    except ProfileError as error:
        raise UsageError(f"{error}; calibrate longer (--seconds)") from error
    _write(chosen.out, data, raw, _steps(calibration), overwrite=chosen.overwrite)
    _report(chosen.out, raw, profile, calibration)


def _parser() -> Parser:
    parser = Parser(
        prog="tokencake calibrate",
        description="Measures step times and copies of a model on this machine and writes a hardware profile.",
        epilog="Calibrate right before you compare seconds: what else runs on a machine changes what a step costs.",
    )
    parser.add_argument("out", type=Path, help="profile to write, NAME.yaml; use it with hardware.profile=NAME.yaml")
    parser.add_argument("--model", default="s", help=f"{', '.join(TINY)} (built here) or a model folder; default: s")
    parser.add_argument("--seconds", type=float, default=90.0, help="time for measuring steps; default: 90")
    parser.add_argument("--seed", type=int, default=0, help="of the workload that is measured; default: 0")
    parser.add_argument(
        "--clock", choices=("cpu", "wall"), help="time of a step; default: cpu without a GPU, else wall"
    )
    parser.add_argument("--dtype", default="auto", help="number format; default: the model's own")
    parser.add_argument("--load-format", default="auto", help="vLLM's; dummy makes up the weights")
    parser.add_argument("--gpu-blocks", type=int, default=512, help="usable KV blocks; default: 512")
    parser.add_argument("--block-size", type=int, default=32, help="tokens in a block; default: 32")
    parser.add_argument("--budget", type=int, default=1024, help="most tokens in a step; default: 1024")
    parser.add_argument("--max-num-seqs", type=int, default=32, help="most running calls; default: 32")
    parser.add_argument("--max-model-len", type=int, default=3808, help="most tokens of a call; default: 3808")
    parser.add_argument("--overwrite", action="store_true", help="replace the files if they are there")
    return parser


def _check(chosen: Any, raw: Path) -> None:
    if chosen.out.suffix not in (".yaml", ".yml"):
        raise UsageError(f"OUT must end in .yaml, got {chosen.out}")
    for path in (chosen.out, raw):
        if path.exists() and not chosen.overwrite:
            raise UsageError(f"{path}: exists; choose another, or replace it with --overwrite")
    parent = next(folder for folder in chosen.out.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UsageError(f"{chosen.out}: {parent} is not a writable directory")
    if not _LEAST_S <= chosen.seconds <= _MOST_S:
        raise UsageError(f"--seconds: must be from {_LEAST_S:g} to {_MOST_S:g}, got {chosen.seconds:g}")
    for name in ("gpu_blocks", "block_size", "budget", "max_num_seqs"):
        if getattr(chosen, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')}: must be > 0, got {getattr(chosen, name)}")


def _write(out: Path, data: dict[str, Any], raw: Path, steps: pa.Table, *, overwrite: bool) -> None:
    """Write both files, then put both in place: a profile that is there is whole, and so are its steps."""
    buffer = pa.BufferOutputStream()
    pq.write_table(steps, buffer, compression="zstd")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out}: cannot be written: {error.strerror}") from error
    with writing(out, overwrite=overwrite) as profile, writing(raw, overwrite=overwrite) as table:
        table.write(buffer.getvalue())
        profile.write(yaml.safe_dump(data, sort_keys=False, allow_unicode=True).encode())


def _limits(chosen: Any, model: Model) -> "Limits":
    from tokencake.engine.runtime import Limits

    longest = min(model.max_len, chosen.gpu_blocks * chosen.block_size)
    if not 64 <= chosen.max_model_len <= longest:
        rule = f"from 64 to {longest} (the model's positions and the KV memory)"
        raise UsageError(f"--max-model-len: must be {rule}, got {chosen.max_model_len}")
    return Limits(chosen.gpu_blocks + 1, chosen.block_size, chosen.budget, chosen.max_num_seqs, chosen.max_model_len)


def _measure(chosen: Any, model: Model, limits: "Limits") -> "Calibration":
    from tokencake.engine.calibrate import TooShortError, calibrate
    from tokencake.engine.runtime import Runtime, close_shared

    close_shared()
    try:
        runtime = Runtime(model, limits, load_format=chosen.load_format)
    except install.EngineStartError as error:
        raise UsageError(str(error)) from error
    try:
        clock = chosen.clock or ("cpu" if runtime.on_cpu else "wall")
        with progress(f"{model.shape.name}, {chosen.seconds:g} s", "step", ticking=False) as report:
            return calibrate(runtime, seconds=chosen.seconds, seed=chosen.seed, clock=clock, progress=report)
    except TooShortError as error:
        raise UsageError(f"--seconds {chosen.seconds:g}: {error}; calibrate longer") from error
    finally:
        runtime.close()


def _profile(model: Model, limits: "Limits", found: "Calibration", seconds: float) -> dict[str, Any]:
    error = found.error
    return {
        "description": f"{model.shape.name} ({model.dtype}) as measured by tokencake calibrate.",
        "model": asdict(model.shape),
        "engine": {
            "max_model_len": limits.max_model_len,
            "block_size": limits.block_size,
            "gpu_blocks": limits.blocks,
            "max_num_batched_tokens": limits.max_num_batched_tokens,
            "max_num_seqs": limits.max_num_seqs,
            "async_scheduling": False,
        },
        "link": asdict(found.link),
        "latency": {"kind": "linear", "params": asdict(found.coefficients)},
        "calibration": {
            "vllm": install.installed(),
            "machine": platform.machine(),
            "clock": found.clock,
            "seconds": seconds,
            "steps": len(found.steps),
            "held_out_steps": error.steps,
            "step_error": round(error.step, 4),
            "window_error": round(error.window, 4),
            "total_error": round(error.total, 4),
            **asdict(found.scatter),
            "load_average": [round(load, 2) for load in found.load_average],
        },
    }


def _steps(found: "Calibration") -> pa.Table:
    from tokencake.engine.calibrate import rows

    return pa.table(rows(found.steps))


def _report(out: Path, raw: Path, profile: HardwareProfile, found: "Calibration") -> None:
    error, link = found.error, profile.link
    print(
        f"{out}: {len(found.steps)} steps ({found.clock} time); on the {error.steps} held out: "
        f"{error.step:.1%} a step, {error.window:.1%} a sum of {_window()} steps, {error.total:+.1%} in all; "
        f"link {link.d2h_gb_s:g} GB/s to the CPU, {link.h2d_gb_s:g} GB/s back, {link.per_run_us:g} us a run; "
        f"load average {found.load_average[0]:.1f} to {found.load_average[1]:.1f}"
    )
    print(f"  steps: {raw}; use it with hardware.profile={out}")
    scatter = " ".join(f"hardware.{key}={value:g}" for key, value in asdict(found.scatter).items() if value)
    drift = "" if found.scatter.drift else f" (no drift; it takes {_drift_seconds()} s of steps to see one)"
    print(f"  to let simulated steps scatter as these did: {scatter or 'they did not'}{drift}")


def _drift_seconds() -> int:
    from tokencake.engine.fit import DRIFT_SECONDS

    return DRIFT_SECONDS


def _window() -> int:
    from tokencake.engine.fit import WINDOW

    return WINDOW
