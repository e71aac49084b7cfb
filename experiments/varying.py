"""What runs differ in: the few settings that somebody varied, not every number that follows from them.

What was typed (`overrides.yaml`) says what was varied. Settings that differ otherwise (another version's defaults) are
added, so that runs with different settings are never taken for repeats of one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tokencake.experiments.keys import EXPERIMENT, HARDWARE, TRACE, flatten
from tokencake.experiments.results import Run

# Says where a run went, or which repeat it is.
_OF_THE_RUN = ("seed", "live.repeat", "hardware.draw", "out", "overwrite", "log", "timeline")
_CHOICES = {"hardware.profile": HARDWARE, "trace.source": TRACE, "trace.path": TRACE}

Facts = Mapping[str, Any]


def facts(run: Run) -> dict[str, Any]:
    """The settings of a run by dotted key; a profile and a trace are one setting each."""
    flat = {k: v for k, v in flatten(run.config).items() if not _is_of(k, _OF_THE_RUN) and k not in _CHOICES}
    trace = run.config.get("trace", {})
    source = trace.get("source")
    chosen = {HARDWARE: run.config.get("hardware", {}).get("profile"), TRACE: source}
    if source in (None, "file") and trace.get("path"):
        chosen[TRACE] = trace["path"]
    return {key: value for key, value in chosen.items() if value is not None} | flat


def varied(runs: Sequence[Run]) -> tuple[list[str], list[dict[str, Any]]]:
    """Keys in which runs differ beside the policy, and each run's values."""
    known = [facts(run) for run in runs]
    differing = [key for key in _differing(known) if not _is_of(key, ("policy",))]
    typed = [_typed(run) for run in runs]
    if None in typed:
        return [key for key in differing if not _follows(key, differing, known)], known
    given = [own or {} for own in typed]
    keys = [key for key in differing if key in _differing(given)]
    rest = _not_determined(differing, keys, known)
    if len(rest) > 1 and EXPERIMENT in _differing(given):
        for own, words in zip(known, given, strict=True):
            own[EXPERIMENT] = words.get(EXPERIMENT)
        keys = [EXPERIMENT, *keys]
        rest = _not_determined(differing, keys, known)
    return [*keys, *rest], known


def _typed(run: Run) -> dict[str, str] | None:
    """What was typed for a run, by key; None if the run does not say."""
    words = run.overrides
    if words is None:
        return None
    pairs = (word.lstrip("+~").partition("=") for word in words)
    return {_CHOICES.get(key, key): value for key, _, value in pairs}


def _differing(rows: Sequence[Facts]) -> list[str]:
    names = dict.fromkeys(key for row in rows for key in row)
    return [key for key in names if len({repr(row.get(key)) for row in rows}) > 1]


def _not_determined(differing: Sequence[str], keys: list[str], rows: Sequence[Facts]) -> list[str]:
    """Keys that differ between rows that agree in `keys`."""
    groups: dict[tuple[str, ...], list[Facts]] = {}
    for row in rows:
        groups.setdefault(tuple(repr(row.get(key)) for key in keys), []).append(row)
    found = {key for group in groups.values() for key in _differing(group)}
    return [key for key in differing if key in found]


def _follows(key: str, differing: Sequence[str], rows: Sequence[Facts]) -> bool:
    """Whether a setting is what a profile says, or a parameter that only some generators have."""
    if HARDWARE in differing and _is_of(key, ("engine", "link")):
        return not _not_determined([key], [HARDWARE], rows)
    return TRACE in differing and key.startswith("trace.") and any(key not in row for row in rows)


def _is_of(key: str, sections: Sequence[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)
