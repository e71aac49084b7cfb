"""Where results go: readable names for the jobs of a sweep, free names when none was given."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

RUNS = Path("runs")


def job_name(choices: Mapping[str, object]) -> str:
    """A directory name made of the swept values, safe in every shell.

    >>> job_name({"policy": "vllm", "trace.qps": 0.5, "seed": 3})
    'vllm_qps-0.5_seed-3'
    >>> job_name({})
    'run'
    """
    last = [key.rsplit(".", 1)[-1] for key in choices]
    parts = []
    for key, short, value in zip(choices, last, choices.values(), strict=True):
        text = re.sub(r"[^A-Za-z0-9.+]+", "-", str(value)).strip("-.") or "none"
        name = short if last.count(short) == 1 else key.replace(".", "-")
        parts.append(text if key in ("policy", "trace", "hardware", "experiment") else f"{name}-{text}")
    return "_".join(parts) or "run"


def job_names(jobs: Sequence[Mapping[str, object]]) -> list[str]:
    """Names for all jobs; the position is added where two would be alike."""
    names = [job_name(job) for job in jobs]
    return [name if names.count(name) == 1 else f"{name}_job-{i}" for i, name in enumerate(names)]


def free_directory(stem: str) -> Path:
    """The first unused of `runs/<stem>-001`, `runs/<stem>-002`, …."""
    number = 1
    while (path := RUNS / f"{stem}-{number:03d}").exists():
        number += 1
    return path
