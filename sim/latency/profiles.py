"""Hardware profiles as YAML files: the ones that ship with tokencake, and a user's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from tokencake.policies.hints import did_you_mean
from tokencake.sim.latency.hardware import EngineDefaults, HardwareProfile, LatencySpec, LinkRates
from tokencake.sim.latency.linear import LinearCoefficients
from tokencake.sim.latency.roofline import Efficiency
from tokencake.sim.latency.shape import GPUSpec, ModelShape
from tokencake.sim.section import build

PROFILE_DIR: Final = Path(__file__).resolve().parents[1] / "profiles"
"""Where the shipped profiles are."""

_SECTIONS: Final[Mapping[str, type]] = {
    "model": ModelShape,
    "gpu": GPUSpec,
    "engine": EngineDefaults,
    "link": LinkRates,
    "latency": LatencySpec,
}
_PARAMS: Final[Mapping[str, type]] = {"linear": LinearCoefficients, "roofline": Efficiency}


class ProfileError(ValueError):
    """A profile that cannot be used; the text is one line that names file, field, value and rule."""


def profile_names() -> list[str]:
    """Return the names of the shipped profiles, sorted."""
    return sorted(path.stem for path in PROFILE_DIR.glob("*.yaml"))


def load_profile(source: str | Path) -> HardwareProfile:
    """Load a shipped profile by name, or a user's own file by path.

    Anything that ends in ``.yaml`` or ``.yml`` or has a folder in it is a path; the file of its
    latency table is relative to it.

    Raises:
        ProfileError: Unknown name, unreadable file, unknown or missing key, or a bad value.
    """
    path = Path(source)
    if path.suffix not in (".yaml", ".yml") and len(path.parts) == 1:
        path = PROFILE_DIR / f"{source}.yaml"
        if not path.is_file():
            hint = "; the name of a file ends in .yaml" if Path(source).exists() else ""
            known = did_you_mean(str(source), profile_names(), "tokencake hardware")
            raise ProfileError(f"unknown hardware profile {str(source)!r}; {known}{hint}")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProfileError(f"{path}: cannot read the hardware profile: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    profile = parse_profile(data, path)
    try:
        profile.latency_model()
    except OSError as error:
        raise ProfileError(f"{path}: latency.file: cannot read {error.filename}: {error.strerror}") from None
    except ValueError as error:
        raise ProfileError(f"{path}: {error}") from None
    return profile


def parse_profile(data: object, path: Path) -> HardwareProfile:
    """Return the profile that a YAML file at ``path`` with this content is; its table is not read.

    Raises:
        ProfileError: Unknown or missing key, or a bad value.
    """
    try:
        return _profile(data, path)
    except ValueError as error:
        raise ProfileError(f"{path}: {error}") from None


def _profile(data: object, path: Path) -> HardwareProfile:
    top = _mapping(data, "the profile")
    known = ["description", *_SECTIONS, "calibration"]  # how it was measured is for people
    for key in top:
        if key not in known:
            raise ValueError(f"{key}: unknown key; {did_you_mean(str(key), known)}")
    sections = {key: _mapping(top[key], key) for key in _SECTIONS if key in top}
    for key in _SECTIONS:
        if key not in sections and key != "gpu":
            raise ValueError(f"{key}: missing")
    latency = dict(sections["latency"])
    kind = latency.get("kind")
    if "params" in latency:
        if kind == "table":
            raise ValueError("latency.params is not for kind 'table'")
        params = _mapping(latency.pop("params"), "latency.params")
        if isinstance(kind, str) and kind in _PARAMS:
            latency["params"] = build(_PARAMS[kind], params, "latency.params")
    if isinstance(latency.get("file"), str):
        latency["file"] = path.parent / str(latency["file"])
    return HardwareProfile(
        name=path.stem,
        description=str(top.get("description", "")),
        model=build(ModelShape, sections["model"], "model"),
        engine=build(EngineDefaults, sections["engine"], "engine"),
        link=build(LinkRates, sections["link"], "link"),
        latency=build(LatencySpec, latency, "latency"),
        gpu=build(GPUSpec, sections["gpu"], "gpu") if "gpu" in sections else None,
    )


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be a mapping, got {value!r}")
    return value
