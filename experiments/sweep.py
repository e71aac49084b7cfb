"""The directory of a sweep: one run directory a job, and the tables over all of them."""

import json
import shutil
import sys
import tempfile
import traceback
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tokencake.experiments import tables
from tokencake.experiments.comparison import collect
from tokencake.experiments.errors import UsageError, one_line
from tokencake.experiments.naming import job_name
from tokencake.experiments.results import (
    SUMMARY,
    SWEEP,
    check_free,
    find_runs,
    finished,
    finished_programs,
    jobs_of,
)
from tokencake.experiments.words import counted, named

_DRAWS = ("seed", "live.repeat", "hardware.draw")  # keys that tell apart what is otherwise the same run
_FAILED = ".failed"
_TABLES = ("sweep.csv", "sweep.md", "paired.csv")
_NAMED = 8  # settings that a line names


@dataclass(frozen=True)
class Sweep:
    """What a sweep will write.

    Attributes:
        out: its directory as the user gave it, if given.
        overwrite: whether an existing sweep there is replaced.
        jobs: directory names of its jobs.
        choices: the swept values of each job, by key.
        resume: whether what an earlier attempt left in its directory stays.
        kept: how many jobs that is.
    """

    out: str | None
    overwrite: bool
    jobs: tuple[str, ...]
    choices: tuple[dict[str, str], ...]
    resume: bool = False
    kept: int = 0


@contextmanager
def sweeping(out: Path, sweep: Sweep) -> Iterator[None]:
    """Make the sweep's directory for the time its jobs run.

    When it ends early, by a job that failed or by the user, finished jobs are kept, also in place of an earlier
    sweep. If there are none, everything is as it was. The error says which.
    """
    aside, fresh = None, not out.exists()
    if sweep.resume:
        _clear(out, sweep)
    else:
        check_free(out, sweep.overwrite)
        if out.exists():
            aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
            out.rename(aside / out.name)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        out.mkdir(exist_ok=sweep.resume)
        (out / SWEEP).write_text(
            json.dumps({"jobs": sweep.jobs, "choices": sweep.choices}, indent=1) + "\n", encoding="utf-8"
        )
        yield
    except (UsageError, KeyboardInterrupt) as error:
        what = _left(out, aside, sweep, fresh=fresh, failed=isinstance(error, UsageError))
        raise type(error)("; ".join(filter(None, (str(error), what)))) from error
    except BaseException:
        _left(out, aside, sweep, fresh=fresh, failed=True)
        raise
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def _clear(out: Path, sweep: Sweep) -> None:
    """Remove what an earlier attempt left in its directory beside runs: tables, and what jobs that were killed held."""
    for name in _TABLES:
        (out / name).unlink(missing_ok=True)
    for job in sweep.jobs:
        for path in out.glob(f".{job}.*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _left(out: Path, aside: Path | None, sweep: Sweep, *, fresh: bool, failed: bool) -> str:
    """Keep what finished of a sweep that ended early, or put back what it replaced; returns which, for its user."""
    done = len(finished(out))
    for note in out.glob(f".*{_FAILED}"):
        note.unlink()
    if done:
        before = ", in place of the earlier sweep" if aside is not None else ""
        on = f"resume=true out={out} does the rest"
        if failed:
            after = f"after a change of code, overwrite=true out={out} runs all of it"
            on = f"resume=true out={out} tries the rest again; {after}"
        return f"what finished ({done} of {len(sweep.jobs)}) is in {out}{before}; {on}"
    if fresh or aside is not None:
        shutil.rmtree(out, ignore_errors=True)
    if aside is None:
        return "no job finished, so nothing was written" if fresh else "no job finished"
    (aside / out.name).rename(out)
    return f"no job finished, so {out} is the earlier sweep"


def missing(directories: Iterable[Path]) -> list[str]:
    """What to say of sweeps that ended early: which settings, or which draws of them, have no run."""
    said = []
    for path in directories:
        jobs = jobs_of(path)
        absent = {job for job in jobs if not (path / job / SUMMARY).is_file()}
        if absent:
            which = named(_settings(jobs, absent), _NAMED)
            said.append(f"{path}: {len(absent)} of {counted(len(jobs), 'job')} of the sweep did not run: {which}")
    return said


def _settings(jobs: Mapping[str, Mapping[str, str]], absent: Collection[str]) -> list[str]:
    """Settings of the absent jobs, with the draws that are missing where others are there."""
    draws: dict[str, list[tuple[str, bool]]] = {}
    for job, choice in jobs.items():
        drawn = {key: value for key, value in choice.items() if key in _DRAWS}
        setting = job_name({key: value for key, value in choice.items() if key not in drawn})
        draws.setdefault(setting, []).append((job_name(drawn), job in absent))
    return [
        setting if all(gone for _, gone in own) else f"{setting} ({', '.join(draw for draw, gone in own if gone)})"
        for setting, own in draws.items()
        if any(gone for _, gone in own)
    ]


def note_failure(out: Path, job: str, error: Exception) -> None:
    """A job of a sweep failed, perhaps in another process: the others go on, and the sweep says so at its end."""
    known = {"said": one_line(str(error)), "traceback": "".join(traceback.format_exception(error))}
    (out / f".{job}{_FAILED}").write_text(json.dumps(known), encoding="utf-8")


def raise_failures(out: Path, sweep: Sweep) -> None:
    """End a sweep in which jobs failed.

    Raises:
        UsageError: it names them, and says what the first one said.
    """
    failed: dict[str, dict[str, str]] = {}
    for job in sweep.jobs:
        note = out / f".{job}{_FAILED}"
        if note.is_file():
            failed[job] = json.loads(note.read_text(encoding="utf-8"))
            note.unlink()
    if not failed:
        return
    first, *others = failed
    named = f"{first}: {failed[first]['said']}" + (f"; also {', '.join(others)}" if others else "")
    error = UsageError(f"{len(failed)} of {len(sweep.jobs)} jobs failed: {named}")
    error.add_note(failed[first]["traceback"])
    raise error


def finish(out: Path) -> bool:
    """Write `sweep.csv`, `sweep.md` and `paired.csv` over the jobs, print the table, say where everything is.

    Returns:
        Whether a program finished in any of the jobs.
    """
    comparison = collect(find_runs([out]))
    for note in comparison.notes:
        print(f"tokencake run: {note}", file=sys.stderr)
    tables.save(comparison, out, name="sweep")
    tables.show(comparison)
    print(f"{counted(len(comparison.runs), 'run')}: {out} (sweep.csv, sweep.md); figures: tokencake plot {out}")
    return any(finished_programs(run.summary) for run in comparison.runs)
