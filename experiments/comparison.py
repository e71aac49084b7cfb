"""Runs side by side: what differs between them, and their metrics averaged over seeds."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tokencake.experiments.errors import UsageError
from tokencake.experiments.keys import in_label, shortened
from tokencake.experiments.labels import policy_labels
from tokencake.experiments.metrics import Interval, mean_interval, paired_difference, relative_change
from tokencake.experiments.results import Run, complete, finished_programs
from tokencake.experiments.varying import facts, varied

Summary = Mapping[str, Any]


def _hit_share(summary: Summary) -> float:
    tokens = summary["prefill_tokens"]
    hits = tokens["gpu_hit"] + tokens["cpu_hit"]
    return float(hits / (hits + tokens["computed"])) if hits + tokens["computed"] else math.nan


# Every metric of the tables: how it is taken from summary.json (units in the name).
METRICS: dict[str, Callable[[Summary], float | None]] = {
    "latency_mean_s": lambda s: s["program_latency_s"]["mean"],
    "latency_p95_s": lambda s: s["program_latency_s"]["p95"],
    "makespan_s": lambda s: s["makespan_s"],
    "ttft_mean_s": lambda s: s["ttft_s"]["mean"],
    "queue_mean_s": lambda s: s["queue_s"]["mean"],
    "prefill_mean_s": lambda s: s["prefill_s"]["mean"],
    "prefill_preempted_mean_s": lambda s: s["prefill_preempted_s"]["mean"],
    "decode_mean_s": lambda s: s["decode_s"]["mean"],
    "decode_preempted_mean_s": lambda s: s["decode_preempted_s"]["mean"],
    "hit_share": _hit_share,
    "recomputed_tokens": lambda s: s["prefill_tokens"]["recomputed"],
    "preemptions": lambda s: s["preemptions"],
    "d2h_gb": lambda s: s["d2h_bytes"] / 1e9,
    "h2d_gb": lambda s: s["h2d_bytes"] / 1e9,
    "stalled_kv_gb_s": lambda s: s["stalled_kv_gb_s"],
    "kv_usage_mean": lambda s: s["kv_usage_mean"],
}
COUNTS = ("programs", "refused_programs", "refused_calls")
"""How much of the trace the metrics are of."""

_LOAD_KEYS = ("trace.qps", "workload.concurrency", "trace.programs_count")


@dataclass(frozen=True)
class Comparison:
    """Runs as rows.

    Attributes:
        frame: one row a run: `policy` and `series` (labels), the varying keys, `seed`, `repeat` and `draw`, `run` (its
            index), the metrics, NaN where nothing was measured, `COUNTS`, and `left_out` (equal for runs that refused
            the same programs).
        keys: settings in which runs differ, other than the policy and the seed.
        load: the key that figures put on the x axis, if one varies.
        policies: labels in the order in which they first appear.
        series: what figures tell apart: the policy, and what else varies beside the load.
        runs: the runs, in row order.
        notes: what a reader must know of how runs were put together.
    """

    frame: pd.DataFrame
    keys: tuple[str, ...]
    load: str | None
    policies: tuple[str, ...]
    series: tuple[str, ...]
    runs: tuple[Run, ...]
    notes: tuple[str, ...] = ()


def collect(given: Sequence[Run]) -> Comparison:
    """Line runs up by what differs in their configurations; copies count once, runs that were ended early do not.

    Raises:
        UsageError: a summary lacks a metric, or no run went to its end.
    """
    whole, cut = complete(given)
    runs, copies = _without_copies(whole)
    keys, values = varied(runs)
    labels = policy_labels([run.config.get("policy", {}) for run in runs])
    load = next((key for key in (*_LOAD_KEYS, *keys) if key in keys and all(_number(v.get(key)) for v in values)), None)
    beside = [key for key in keys if key != load]
    texts = {
        key: shortened({i: own[key] for i, own in enumerate(values) if own.get(key) is not None}) for key in beside
    }
    refusals = [run.refused for run in runs]
    rows: list[dict[str, Any]] = []
    for index, (run, own, label) in enumerate(zip(runs, values, labels, strict=True)):
        series = ", ".join([label, *(in_label(key, texts[key][index]) for key in beside if index in texts[key])])
        head = {"policy": label, "series": series} | {key: own.get(key) for key in keys}
        sample = {"seed": run.summary.get("seed", 0), "repeat": run.repeat, "draw": run.draw}
        left_out = {"left_out": refusals.index(run.refused)}
        rows.append(head | sample | {"run": index} | left_out | _metrics(run))
    series_names = tuple(dict.fromkeys(row["series"] for row in rows))
    policies = tuple(dict.fromkeys(labels))
    return Comparison(pd.DataFrame(rows), tuple(keys), load, policies, series_names, tuple(runs), (*cut, *copies))


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _without_copies(given: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs, each once, and what to say of those left out.

    Two runs of one configuration, trace and seed are one sample, wherever they lie.
    """
    first: dict[str, Run] = {}
    copies: list[tuple[Run, Run]] = []
    for run in given:
        own = facts(run) | {"seed": run.summary.get("seed"), "repeat": run.repeat, "draw": run.draw}
        known = first.setdefault(repr(sorted((own | {"": run.summary.get("trace_sha256")}).items())), run)
        if known is not run:
            copies.append((run, known))
    if not copies:
        return list(given), []
    same = [f"{run.path} (of {known.path})" for run, known in copies]
    more = f" and {len(same) - 2} more" if len(same) > 2 else ""
    note = f"counted once: {', '.join(same[:2])}{more} repeat the configuration and seed of another run"
    if any(run.summary != known.summary for run, known in copies):
        note += "; their results differ, so another version made them"
    return list(first.values()), [note]


def _metrics(run: Run) -> dict[str, float]:
    """Counts and metrics; a run in which no program finished has no metric: what was done was for nothing."""
    try:
        counts = {name: float(run.summary[name]) for name in COUNTS}
        found = {name: take(run.summary) for name, take in METRICS.items()}
        ran = finished_programs(run.summary)
    except (KeyError, TypeError) as error:
        raise UsageError(f"{run.path}: summary.json lacks {error}") from error
    return counts | {name: float(v) if ran and v is not None else math.nan for name, v in found.items()}


def aggregate(comparison: Comparison) -> pd.DataFrame:
    """One row per policy and varying keys: `series`, `seeds`, `finished`, each metric's mean and 95 % t interval.

    `COUNTS` are there, too, as means over seeds. Intervals are columns that end in `_low` and `_high`. Runs that are
    equal whatever their seed count as one: they say nothing of scatter. A metric that one of the runs lacks is NaN.
    """
    by = ["policy", "series", *comparison.keys]
    rows = []
    for values, group in comparison.frame.groupby(by, sort=False, dropna=False):
        own = group.head(1) if all_equal(comparison, group) else group
        row = dict(zip(by, values, strict=True)) | {"seeds": len(own), "finished": finished(own)}
        row |= {name: own[name].mean() for name in COUNTS}
        for name in METRICS:
            interval = mean_interval([float(v) for v in own[name]])
            row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        rows.append(row)
    return pd.DataFrame(rows)


def all_equal(comparison: Comparison, rows: pd.DataFrame) -> bool:
    """Whether several runs of one kind are the same run, because nothing in them depends on the seed."""
    first, *others = (comparison.runs[int(index)].outcome for index in rows["run"])
    return bool(others) and all(other == first for other in others)


def paired(
    comparison: Comparison, metrics: Sequence[str] = ("latency_mean_s", "latency_p95_s", "makespan_s")
) -> pd.DataFrame:
    """Each policy minus the first one, seed by seed, at every value of the other varying keys.

    Means over different programs are not compared: a seed counts where both refused the same ones.

    Columns: the keys, `policy`, `baseline`, `metric`, `seeds` (common ones), `difference`, `low`, `high`, and the
    `relative_change` on those seeds: `relative`, `relative_low`, `relative_high`.
    """
    rows: list[dict[str, Any]] = []
    base, *others = comparison.policies
    for values, group in _by_keys(comparison):
        for policy in others:
            rows_of = {name: group[group["policy"] == name] for name in (policy, base)}
            equal = all(len(own) and all_equal(comparison, own) for own in rows_of.values())
            for metric in metrics:
                mine, theirs = (samples(rows_of[name], metric) for name in (policy, base))
                if equal:  # on both sides: one difference, however often it was run
                    mine = {sample: mine[sample] for sample in sorted(mine.keys() & theirs.keys())[:1]}
                difference = paired_difference(mine, theirs)
                if difference is None:
                    continue
                change = relative_change(mine, theirs) or Interval(math.nan, math.nan, math.nan, difference.count)
                head = dict(zip(comparison.keys, values, strict=True)) | {"policy": policy, "baseline": base}
                numbers = {"difference": difference.mean, "low": difference.low, "high": difference.high}
                numbers |= {"relative": change.mean, "relative_low": change.low, "relative_high": change.high}
                rows.append(head | {"metric": metric, "seeds": difference.count} | numbers)
    return pd.DataFrame(rows)


def finished(rows: pd.DataFrame) -> str:
    """How many of the programs of some runs finished; empty where all did.

    >>> finished(pd.DataFrame({"programs": [99, 99], "refused_programs": [40, 42]}))
    '57 to 59 of 99'
    """
    if not rows["refused_programs"].any():
        return ""
    return f"{count_range(rows['programs'] - rows['refused_programs'])} of {count_range(rows['programs'])}"


def unlike(comparison: Comparison) -> bool:
    """Whether runs that differ in the policy alone refused different programs."""
    sample = [*comparison.keys, "seed", "repeat", "draw"]
    return bool((comparison.frame.groupby(sample, dropna=False)["left_out"].nunique() > 1).any())


def count_range(values: pd.Series) -> str:
    """The least and the greatest of some counts.

    >>> count_range(pd.Series([7, 8])), count_range(pd.Series([7.0]))
    ('7 to 8', '7')
    """
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"


def _by_keys(comparison: Comparison) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    if not comparison.keys:
        return [((), comparison.frame)]
    grouped = comparison.frame.groupby(list(comparison.keys), sort=False, dropna=False)
    return [(values if isinstance(values, tuple) else (values,), group) for values, group in grouped]


def samples(rows: pd.DataFrame, metric: str) -> dict[tuple[int, ...], float]:
    """A metric of runs of one kind, by what pairs them with those of another: seed, repeat, draw, programs left out.

    Runs in which it was not measured are not among them.
    """
    known = rows[rows[metric].notna()]
    paired_by = (known[name].astype(int) for name in ("seed", "repeat", "draw", "left_out"))
    return dict(zip(zip(*paired_by, strict=True), map(float, known[metric]), strict=True))
