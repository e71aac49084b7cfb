"""Predicted against measured: simulator runs beside engine runs of the same setting, or run against run."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Any

from tokencake.experiments.errors import UsageError
from tokencake.experiments.keys import as_typed, flatten, shortened
from tokencake.experiments.labels import policy_labels
from tokencake.experiments.metrics import t95
from tokencake.experiments.results import Run, complete

Summary = Mapping[str, Any]
_Key = tuple[tuple[str, str], ...]


def _distribution(name: str) -> dict[str, Callable[[Summary], float]]:
    def take(key: str) -> Callable[[Summary], float]:
        return lambda summary: summary[f"{name}_s"][key]

    return {f"{name}_{key}_s": take(key) for key in ("mean", "p50", "p95", "p99")}


METRICS: Mapping[str, Callable[[Summary], float]] = {
    **_distribution("program_latency"),
    "makespan_s": lambda s: s["makespan_s"],
    **_distribution("ttft"),
    **_distribution("queue"),
    "computed_tokens": lambda s: s["prefill_tokens"]["computed"],
    "hit_tokens": lambda s: s["prefill_tokens"]["gpu_hit"] + s["prefill_tokens"]["cpu_hit"],
    "cpu_hit_tokens": lambda s: s["prefill_tokens"]["cpu_hit"],
    "preemptions": lambda s: s["preemptions"],
    "d2h_bytes": lambda s: s["d2h_bytes"],
    "h2d_bytes": lambda s: s["h2d_bytes"],
}
"""What is compared, and how it is taken from summary.json."""

STEP_TIME = "step_time_s"
"""Besides: time of the very steps that were measured, as the hardware profile has it over as it was measured."""

_DIGEST = "trace_sha256"
_DIGITS = 12  # of it, in a label
# What two runs of one setting may differ in: who ran it, where it went, how often, and what a step was said to cost.
_APART = (
    "host",
    "out",
    "overwrite",
    "log",
    "timeline",
    "live",
    "hardware",
    "policy",
    "link",
    "engine.jumps",
    "engine.runs",
)


@dataclass(frozen=True)
class Pair:
    """Runs of one policy in one setting.

    Attributes:
        setting: what was run, beside the policy, as far as settings differ; no two settings are called the same.
        policy: label of the policy.
        predicted: runs whose numbers are judged.
        measured: runs they are judged by, repeats in order.
    """

    setting: str
    policy: str
    predicted: tuple[Run, ...]
    measured: tuple[Run, ...]

    def values(self, metric: str) -> tuple[list[float], list[float]]:
        """A metric of the predicted and of the measured runs.

        Raises:
            UsageError: a summary lacks it.
        """
        return [_metric(run, metric) for run in self.predicted], [_metric(run, metric) for run in self.measured]


def _metric(run: Run, name: str) -> float:
    try:
        return float(METRICS[name](run.summary))
    except (KeyError, TypeError) as error:
        raise UsageError(f"{run.path}: summary.json lacks {error}") from error


def pair_up(directories: Sequence[Sequence[Run]], reference: str | None = None) -> list[Pair]:
    """Find the runs that say something about each other: those that went to their end and have latencies.

    Args:
        directories: the runs of each directory that the user named.
        reference: the host that counts as measured; by default the engine, where there are runs of several hosts.
            Where all are of one host, the first directory is what the others are compared with.

    Raises:
        UsageError: nothing can be compared, or live runs of one side are no repeats of each other.
    """
    directories = [complete(directory, idle=False)[0] for directory in directories]
    runs = [run for directory in directories for run in directory]
    measured = _measured(directories, reference)
    keys = [_setting(run) for run in runs]
    settings = _labels(keys)
    labels = policy_labels([run.config.get("policy", {}) for run in runs])
    groups: dict[tuple[_Key, str], tuple[list[Run], list[Run]]] = {}
    for run, key, label in zip(runs, keys, labels, strict=True):
        predicted_runs, measured_runs = groups.setdefault((key, label), ([], []))
        (measured_runs if run in measured else predicted_runs).append(run)
    pairs = [
        Pair(settings[key], label, tuple(predicted_runs), tuple(measured_runs))
        for (key, label), (predicted_runs, measured_runs) in groups.items()
        if predicted_runs and measured_runs
    ]
    if not pairs:
        raise UsageError(
            "no two runs of the same trace, policy and settings to compare; "
            "runs that differ in those are set side by side by tokencake plot RUN RUN ..."
        )
    for pair in pairs:
        _check_repeats(pair.predicted)
        _check_repeats(pair.measured)
    return pairs


def _check_repeats(side: Sequence[Run]) -> None:
    """Refuse live runs of one side that are no repeats of each other; what an older version does not say may be so.

    Raises:
        UsageError: they differ in a setting of the live engine.
    """
    first: dict[str, tuple[Any, Run]] = {}
    for run in side:
        if run.summary.get("host") != "live":
            continue
        for key, value in flatten({"live": run.config.get("live", {})}).items():
            other, found = first.setdefault(key, (value, run))
            if value != other and key != "live.repeat":
                raise UsageError(
                    f"{key} is {as_typed(other)} in {found.path} and {as_typed(value)} in {run.path}: they are no"
                    " repeats of one run; name the directories of one of the two only"
                )


def _measured(directories: Sequence[Sequence[Run]], reference: str | None) -> list[Run]:
    runs = [run for directory in directories for run in directory]
    hosts = list(dict.fromkeys(str(run.summary.get("host")) for run in runs))
    if reference is not None and reference not in hosts:
        raise UsageError(f"--measured {reference}: no run of that host (there are: {', '.join(hosts)})")
    if len(hosts) == 1:
        return list(directories[0])
    host = reference or next(host for host in ("live", "virtual", hosts[0]) if host in hosts)
    return [run for run in runs if run.summary.get("host") == host]


def _setting(run: Run) -> _Key:
    flat = flatten(run.config)
    own = {k: repr(v) for k, v in flat.items() if not any(k == key or k.startswith(f"{key}.") for key in _APART)}
    return tuple(sorted((own | {_DIGEST: str(run.summary.get("trace_sha256"))}).items()))


def _labels(keys: Sequence[_Key]) -> dict[_Key, str]:
    """What settings are called: by the values in which they differ, as briefly as still tells all of them apart."""
    settings = {key: dict(key) for key in keys}
    names = dict.fromkeys(name for values in settings.values() for name in values)
    varying = [name for name in names if len({values.get(name) for values in settings.values()}) > 1]
    # What made the traces differ says more than their digests.
    labels = _brief(settings, [name for name in varying if name != _DIGEST])
    for longer in (_brief(settings, varying), _exact(settings, varying)):
        count = Counter(labels.values())
        labels = {key: label if count[label] == 1 else longer[key] for key, label in labels.items()}
    return labels


def _brief(settings: Mapping[_Key, Mapping[str, str]], names: Sequence[str]) -> dict[_Key, str]:
    """As they were typed, of keys the last part, of paths what tells them apart."""
    parts: dict[_Key, list[str]] = {key: [] for key in settings}
    for name in names:
        given = {key: values[name].strip("'") for key, values in settings.items() if name in values}
        texts = {key: text[:_DIGITS] for key, text in given.items()} if name == _DIGEST else shortened(given)
        for key, own in parts.items():
            last = name.rpartition(".")[2]
            own.append(f"{last}={texts[key]}" if key in texts else f"no {last}")
    return {key: ", ".join(own) for key, own in parts.items()}


def _exact(settings: Mapping[_Key, Mapping[str, str]], names: Sequence[str]) -> dict[_Key, str]:
    return {
        key: ", ".join(f"{name}={values[name]}" if name in values else f"no {name}" for name in names)
        for key, values in settings.items()
    }


@dataclass(frozen=True)
class Row:
    """One metric of one pair.

    Attributes:
        setting: the pair's.
        policy: the pair's.
        metric: name, in `METRICS`, or `STEP_TIME`.
        measured: mean over the measured runs.
        predicted: mean over the predicted runs.
        error: `predicted / measured - 1`; NaN where 0 was measured and something else predicted.
        standard_error: of `error`, from how repeated runs scatter on both sides (a single prediction counts as exact);
            NaN without repeated measurements, or where the mean is 0.
        margin: half the width of the 95 % interval of `error`: `standard_error` times the two-sided 95 % point of
            Student's t at the degrees of freedom that the repeats leave (n - 1 where only the n measurements scatter).
        spread: range of the repeated measurements over their mean; NaN without repeats, or where the mean is 0.
        repeats: measured runs.
    """

    setting: str
    policy: str
    metric: str
    measured: float
    predicted: float
    error: float
    standard_error: float
    margin: float
    spread: float
    repeats: int


def compare(pairs: Sequence[Pair]) -> list[Row]:
    """Every metric of every pair, and the time of its steps where that was measured."""
    rows = []
    for pair in pairs:
        rows += [_row(pair, name, *pair.values(name)) for name in METRICS]
        times = _step_times(pair.measured)
        if times:
            rows.append(_row(pair, STEP_TIME, *times))
    return rows


def _step_times(measured: Sequence[Run]) -> tuple[list[float], list[float]] | None:
    """Time of each run's steps in all, as its hardware profile has it and as it was measured; None if it was not."""
    tables = [run.table("steps") for run in measured if (run.path / "steps.parquet").exists()]
    if not tables or any("expected_s" not in table for table in tables):
        return None
    return [float(table["expected_s"].sum()) for table in tables], [float(t["duration_s"].sum()) for t in tables]


def _row(pair: Pair, metric: str, predicted: Sequence[float], measured: Sequence[float]) -> Row:
    mean, forecast = fmean(measured), fmean(predicted)
    error = forecast / mean - 1 if mean else (0.0 if forecast == 0 else math.nan)
    scatter = margin = spread = math.nan
    if mean and len(measured) > 1:
        scatter, margin = _scatter(predicted, measured)
        spread = (max(measured) - min(measured)) / mean
    return Row(pair.setting, pair.policy, metric, mean, forecast, error, scatter, margin, spread, len(measured))


def _scatter(predicted: Sequence[float], measured: Sequence[float]) -> tuple[float, float]:
    """Standard error of the ratio of the two means, and half the width of its 95 % interval.

    To first order the variance of the ratio r is that of (predicted - r * measured) / mean measured. The sides are
    independent and scatter differently, so their degrees of freedom are pooled as by Welch and Satterthwaite.
    """
    mean = fmean(measured)
    ratio = fmean(predicted) / mean
    sides = (standard_error(predicted) / mean, len(predicted)), (standard_error(measured) * ratio / mean, len(measured))
    scatter = math.hypot(*(error for error, _ in sides))
    if scatter == 0:
        return 0.0, 0.0
    degrees = 1 / sum((error / scatter) ** 4 / (count - 1) for error, count in sides if count > 1)
    return scatter, t95(int(round(degrees, 6))) * scatter


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean of independent runs, in their unit; 0 for a single run, of which nothing is known."""
    return math.sqrt(variance(values) / len(values)) if len(values) > 1 else 0.0


def load_averages(pairs: Sequence[Pair]) -> tuple[float, float] | None:
    """Lowest and highest load average of the machine during the measured runs, as they recorded it."""
    found = [float(load) for pair in pairs for run in pair.measured for load in run.timing.get("load_average", ())]
    return (min(found), max(found)) if found else None
