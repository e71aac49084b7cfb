"""Runs side by side: what differs between them, and their metrics averaged over seeds."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tokencake.experiments.errors import UsageError
from tokencake.experiments.metrics import mean_interval, paired_difference
from tokencake.experiments.results import Run

Summary = Mapping[str, Any]


def _hit_share(summary: Summary) -> float:
    tokens = summary["prefill_tokens"]
    hits = tokens["gpu_hit"] + tokens["cpu_hit"]
    return float(hits / (hits + tokens["computed"])) if hits + tokens["computed"] else 0.0


# Every metric of the tables: how it is taken from summary.json (units in the name).
METRICS: dict[str, Callable[[Summary], float]] = {
    "latency_mean_s": lambda s: s["program_latency_s"]["mean"],
    "latency_p95_s": lambda s: s["program_latency_s"]["p95"],
    "makespan_s": lambda s: s["makespan_s"],
    "ttft_mean_s": lambda s: s["ttft_s"]["mean"],
    "queue_mean_s": lambda s: s["queue_s"]["mean"],
    "prefill_mean_s": lambda s: s["prefill_s"]["mean"],
    "decode_mean_s": lambda s: s["decode_s"]["mean"],
    "hit_share": _hit_share,
    "recomputed_tokens": lambda s: s["prefill_tokens"]["recomputed"],
    "preemptions": lambda s: s["preemptions"],
    "d2h_gb": lambda s: s["d2h_bytes"] / 1e9,
    "h2d_gb": lambda s: s["h2d_bytes"] / 1e9,
    "stalled_kv_gb_s": lambda s: s["stalled_kv_gb_s"],
    "kv_usage_mean": lambda s: s["kv_usage_mean"],
}

_OF_THE_RUN = ("seed", "out", "overwrite", "log", "timeline", "policy.name", "sweep_keys")
_LOAD_KEYS = ("trace.qps", "trace.rate", "trace.programs", "trace.concurrency")


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys.

    >>> flatten({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            flat |= flatten(item, f"{prefix}{key}.")
        else:
            flat[prefix + key] = item
    return flat


@dataclass(frozen=True)
class Comparison:
    """Runs as rows.

    Attributes:
        frame: one row a run: `policy` and `series` (labels), the varying keys, `seed`, `run` (its index), the metrics.
        keys: varying configuration keys other than the policy and the seed.
        load: the key that figures put on the x axis, if one varies.
        policies: labels in the order in which they first appear.
        series: what figures tell apart: the policy, and what else varies beside the load.
        runs: the runs, in row order.
    """

    frame: pd.DataFrame
    keys: tuple[str, ...]
    load: str | None
    policies: tuple[str, ...]
    series: tuple[str, ...]
    runs: tuple[Run, ...]


def collect(runs: Sequence[Run]) -> Comparison:
    """Line runs up by what differs in their configurations.

    Raises:
        UsageError: a summary lacks a metric.
    """
    flats = [flatten(run.config) for run in runs]
    varying = _varying(flats)
    keys = tuple(key for key in varying if not key.startswith("policy."))
    labels = label_policies(flats)
    load = next((key for key in _LOAD_KEYS if key in keys), None)
    load = load or next((k for k in keys if all(isinstance(f.get(k), int | float) for f in flats)), None)
    rows: list[dict[str, Any]] = []
    for index, (run, flat, label) in enumerate(zip(runs, flats, labels, strict=True)):
        own = {key: flat.get(key) for key in keys}
        series = ", ".join([label, *(f"{k.rsplit('.', 1)[-1]}={_short(v)}" for k, v in own.items() if k != load)])
        head = {"policy": label, "series": series} | own
        rows.append(head | {"seed": run.summary.get("seed", 0), "run": index} | _metrics(run))
    series_names = tuple(dict.fromkeys(row["series"] for row in rows))
    return Comparison(pd.DataFrame(rows), keys, load, tuple(dict.fromkeys(labels)), series_names, tuple(runs))


def _short(value: object) -> str:
    """A configuration value in a legend: of a path the file's name."""
    return str(value).rsplit("/", 1)[-1]


def _metrics(run: Run) -> dict[str, float]:
    try:
        return {name: float(take(run.summary)) for name, take in METRICS.items()}
    except (KeyError, TypeError) as error:
        raise UsageError(f"{run.path}: summary.json lacks {error}") from error


def _varying(flats: Iterable[Mapping[str, Any]]) -> list[str]:
    flats = list(flats)
    names = dict.fromkeys(key for flat in flats for key in flat)
    return [
        key
        for key in names
        if len({repr(flat.get(key)) for flat in flats}) > 1
        and not any(key == own or key.startswith(own + ".") for own in _OF_THE_RUN)
    ]


def label_policies(flats: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each run's policy by name, with the parameters in which runs of this policy differ."""
    return [_label(flat, flats) for flat in flats]


def _label(flat: Mapping[str, Any], flats: Iterable[Mapping[str, Any]]) -> str:
    name = str(flat.get("policy.name", "?"))
    varying = _varying(other for other in flats if other.get("policy.name") == name)
    own = {key.rsplit(".", 1)[-1]: flat.get(key) for key in varying if key.startswith("policy.")}
    return name if not own else name + " (" + ", ".join(f"{k}={v}" for k, v in own.items()) + ")"


def aggregate(comparison: Comparison) -> pd.DataFrame:
    """One row per policy and varying keys: `series`, `seeds`, each metric's mean and 95 % t interval (low, high)."""
    by = ["policy", "series", *comparison.keys]
    rows = []
    for values, group in comparison.frame.groupby(by, sort=False, dropna=False):
        row = dict(zip(by, values, strict=True)) | {"seeds": len(group)}
        for name in METRICS:
            interval = mean_interval([float(v) for v in group[name]])
            row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        rows.append(row)
    return pd.DataFrame(rows)


def paired(
    comparison: Comparison, metrics: Sequence[str] = ("latency_mean_s", "latency_p95_s", "makespan_s")
) -> pd.DataFrame:
    """Each policy minus the first one, seed by seed, at every value of the other varying keys.

    Columns: the keys, `policy`, `baseline`, `metric`, `seeds` (common ones), `difference`, `low`, `high`, `relative`
    (difference over the baseline's mean on those seeds).
    """
    rows: list[dict[str, Any]] = []
    base, *others = comparison.policies
    for values, group in _by_keys(comparison):
        for policy in others:
            for metric in metrics:
                mine, theirs = _by_seed(group, policy, metric), _by_seed(group, base, metric)
                difference = paired_difference(mine, theirs)
                if difference is None:
                    continue
                common = [theirs[seed] for seed in sorted(mine.keys() & theirs.keys())]
                reference = math.fsum(common) / len(common)
                head = dict(zip(comparison.keys, values, strict=True)) | {"policy": policy, "baseline": base}
                numbers = {"difference": difference.mean, "low": difference.low, "high": difference.high}
                relative = difference.mean / reference if reference else math.nan
                rows.append(head | {"metric": metric, "seeds": difference.count} | numbers | {"relative": relative})
    return pd.DataFrame(rows)


def _by_keys(comparison: Comparison) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    if not comparison.keys:
        return [((), comparison.frame)]
    grouped = comparison.frame.groupby(list(comparison.keys), sort=False, dropna=False)
    return [(values if isinstance(values, tuple) else (values,), group) for values, group in grouped]


def _by_seed(group: pd.DataFrame, policy: str, metric: str) -> dict[int, float]:
    rows = group[group["policy"] == policy]
    return {int(seed): float(value) for seed, value in zip(rows["seed"], rows[metric], strict=True)}
