"""Hardware profiles as YAML files: the ones that ship with tokencake, and a user's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from math import isfinite
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from tokencake.policies.hints import did_you_mean
from tokencake.sim.latency.hardware import EngineDefaults, HardwareProfile, LatencySpec, LinkRates
from tokencake.sim.latency.linear import LinearCoefficients
from tokencake.sim.latency.roofline import Efficiency
from tokencake.sim.latency.shape import GPUSpec, ModelShape

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

_T = TypeVar("_T")


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
            raise ProfileError(_unknown("hardware profile", str(source), profile_names()) + hint)
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
    _known(top, ["description", *_SECTIONS, "calibration"], "")  # how it was measured is for people
    sections = {key: _mapping(top[key], key) for key in _SECTIONS if key in top}
    for key in _SECTIONS:
        if key not in sections and key != "gpu":
            raise ValueError(f"{key} is missing")
    latency = dict(sections["latency"])
    kind = latency.get("kind")
    if "params" in latency:
        if kind == "table":
            raise ValueError("latency.params is not for kind 'table'")
        params = _mapping(latency.pop("params"), "latency.params")
        if isinstance(kind, str) and kind in _PARAMS:
            latency["params"] = _build(_PARAMS[kind], params, "latency.params")
    if isinstance(latency.get("file"), str):
        latency["file"] = path.parent / str(latency["file"])
    return HardwareProfile(
        name=path.stem,
        description=str(top.get("description", "")),
        model=_build(ModelShape, sections["model"], "model"),
        engine=_build(EngineDefaults, sections["engine"], "engine"),
        link=_build(LinkRates, sections["link"], "link"),
        latency=_build(LatencySpec, latency, "latency"),
        gpu=_build(GPUSpec, sections["gpu"], "gpu") if "gpu" in sections else None,
    )


def _build(cls: type[_T], values: Mapping[str, Any], where: str) -> _T:
    """Make a dataclass from a mapping; an unknown, missing or mistyped key is an error."""
    hints = get_type_hints(cls)
    names = {field.name: field for field in fields(cls) if field.init}  # type: ignore[arg-type]
    _known(values, list(names), f"{where}.")
    for name, field in names.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{where}.{name} is missing")
    typed = {name: _typed(value, hints[name], f"{where}.{name}") for name, value in values.items()}
    try:
        return cls(**typed)
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from None


def _typed(value: Any, hint: Any, where: str) -> Any:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{where}: {_unknown('value', str(value), list(get_args(hint)))}")
        return value
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if float in kinds and type(value) is int:
        value = float(value)
    if isinstance(value, float) and not isfinite(value):
        raise ValueError(f"{where} must be finite, got {value}")
    fits = any(type(value) is kind if isinstance(value, bool) else isinstance(value, kind) for kind in kinds)
    if not fits:
        raise ValueError(f"{where} must be {' or '.join(map(_kind_name, kinds))}, got {value!r}")
    return value


def _kind_name(kind: type) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "empty"}
    return names.get(kind, kind.__name__)


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be a mapping, got {value!r}")
    return value


def _known(values: Mapping[str, Any], names: list[str], prefix: str) -> None:
    for key in values:
        if key not in names:
            raise ValueError(_unknown("key", f"{prefix}{key}", [f"{prefix}{name}" for name in names]))


def _unknown(what: str, value: str, known: list[str]) -> str:
    listed = "tokencake hardware" if what == "hardware profile" else ""
    return f"unknown {what} {value!r}; {did_you_mean(value, known, listed)}"
