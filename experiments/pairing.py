"""Which runs say something about each other: those of one trace, policy and settings, predicted and measured."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tokencake.experiments.errors import UsageError
from tokencake.experiments.keys import as_typed, flatten, shortened
from tokencake.experiments.labels import policy_labels
from tokencake.experiments.results import Run, complete

Summary = Mapping[str, Any]
Repeat = tuple[int, ...]
"""What tells independent runs of one kind apart: the repeat, and the draw where there is but one repeat."""
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

    @property
    def paired(self) -> bool:
        """Whether both sides have the same repeats, and more than one: what a repeat's runs share cancels then."""
        predicted, measured = (set(_repeats(side)) for side in (self.predicted, self.measured))
        return predicted == measured and len(measured) > 1

    def by_repeat(self, metric: str) -> tuple[dict[Repeat, float], dict[Repeat, float]]:
        """Means of a metric over the predicted and over the measured runs of each repeat, in order of repeats."""
        predicted, measured = self.values(metric)
        return _means(self.predicted, predicted), _means(self.measured, measured)

    def samples(self, metric: str) -> tuple[list[float], list[float]]:
        """What the predicted and the measured mean of a metric are taken over: samples that are independent.

        Where sides are paired they are the repeats, in one order, so that each weighs the same. Else they are the runs;
        but what is drawn for several repeats is one sample a repeat, because its draws share one calibration.
        """
        if not self.paired:
            predicted, measured = self.values(metric)
            return _independent(self.predicted, predicted), _independent(self.measured, measured)
        forecast, found = self.by_repeat(metric)
        return list(forecast.values()), list(found.values())


def _repeats(runs: Sequence[Run]) -> list[Repeat]:
    several = len({run.repeat for run in runs}) > 1
    return [(run.repeat,) if several else (run.repeat, run.draw) for run in runs]


def _means(runs: Sequence[Run], values: Sequence[float]) -> dict[Repeat, float]:
    found: dict[Repeat, list[float]] = {}
    for repeat, value in zip(_repeats(runs), values, strict=True):
        found.setdefault(repeat, []).append(value)
    return {repeat: fmean(own) for repeat, own in sorted(found.items())}


def _independent(runs: Sequence[Run], values: list[float]) -> list[float]:
    drawn = len({run.draw for run in runs}) > 1
    return list(_means(runs, values).values()) if drawn and len({run.repeat for run in runs}) > 1 else values


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
