"""Going on with what was stopped: which runs are there already, and are they the ones that are asked for?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tokencake.experiments.errors import UsageError
from tokencake.experiments.job import Job
from tokencake.experiments.keys import flatten
from tokencake.experiments.results import SUMMARY, SWEEP, Run, check_free, finished

_INSTEAD = "choose another out, or replace it with overwrite=true"
_OF_THE_DIRECTORY = ("out", "overwrite")


def is_done(out: Path) -> bool:
    """Whether a run is in a directory and went to its end."""
    return (out / SUMMARY).is_file() and not Run(out).summary.get("interrupted")


def done(jobs: Mapping[Path, Job]) -> list[Path]:
    """The directories whose runs need not be done again.

    Raises:
        UsageError: a directory holds another configuration, trace or code of a policy than its job, or no run.
    """
    digests: dict[object, str] = {}
    for out, job in jobs.items():
        if not (out / SUMMARY).is_file():
            _check_empty(out, "run")
            continue
        there = Run(out)
        asked, found = (_settings(config) for config in (yaml.safe_load(yaml.safe_dump(job.config)), there.config))
        for key in sorted(asked.keys() | found.keys()):
            if asked.get(key) != found.get(key):
                what = f"{key} was {found.get(key)}, not {asked.get(key)}"
                raise UsageError(f"resume=true: {out} holds another run ({what}); {_INSTEAD}")
        if job.trace.identity not in digests:
            digests[job.trace.identity] = job.trace.sha256
        if there.summary.get("trace_sha256") != digests[job.trace.identity]:
            raise UsageError(f"resume=true: {out} holds a run of another trace; {_INSTEAD}")
        code = there.summary.get("policy_code", {})
        changed = [name for name in job.code.keys() | code.keys() if job.code.get(name) != code.get(name)]
        if changed:
            what = f"{', '.join(sorted(changed))} has changed since {out} ran"
            raise UsageError(f"resume=true: {what}; overwrite=true runs it again")
    return [out for out in jobs if is_done(out)]


def done_of_sweep(out: Path, jobs: Mapping[Path, Job]) -> list[Path]:
    """The same for the jobs of a sweep, whose tables are over all that is in its directory.

    Raises:
        UsageError: it is no sweep's directory, or holds something else than these jobs.
    """
    if not (out / SWEEP).is_file():
        _check_empty(out, "sweep")
    others = sorted(set(finished(out)) - set(jobs))
    if others:
        raise UsageError(f"resume=true: {others[0]} is no job of this sweep; {_INSTEAD}")
    return done(jobs)


def _check_empty(out: Path, what: str) -> None:
    if out.is_dir() and any(out.iterdir()):
        raise UsageError(f"resume=true: {out} holds no {what}; choose another out")
    check_free(out, overwrite=False)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flatten(config).items() if key not in _OF_THE_DIRECTORY}
