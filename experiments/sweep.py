"""The directory of a sweep: one run directory a job, and the tables over all of them."""

import json
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tokencake.experiments import tables
from tokencake.experiments.comparison import collect
from tokencake.experiments.errors import UsageError, one_line
from tokencake.experiments.results import SWEEP, check_free, find_runs, finished
from tokencake.experiments.words import counted

_FAILED = ".failed"


@dataclass(frozen=True)
class Sweep:
    """What a sweep will write.

    Attributes:
        out: its directory as the user gave it, if given.
        overwrite: whether an existing sweep there is replaced.
        jobs: directory names of its jobs.
        choices: the swept values of each job, by key.
    """

    out: str | None
    overwrite: bool
    jobs: tuple[str, ...]
    choices: tuple[dict[str, str], ...]


@contextmanager
def sweeping(out: Path, sweep: Sweep) -> Iterator[None]:
    """Make the sweep's directory for the time its jobs run.

    When it ends early, by a job that failed or by the user, finished jobs are kept, also in place of an earlier
    sweep. If there are none, everything is as it was. The error says which.
    """
    check_free(out, sweep.overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent)) if out.exists() else None
    if aside is not None:
        out.rename(aside / out.name)
    try:
        out.mkdir()
        (out / SWEEP).write_text(
            json.dumps({"jobs": sweep.jobs, "choices": sweep.choices}, indent=1) + "\n", encoding="utf-8"
        )
        yield
    except (UsageError, KeyboardInterrupt) as error:
        what = _left(out, aside, sweep)
        raise type(error)("; ".join(filter(None, (str(error), what)))) from error
    except BaseException:
        _left(out, aside, sweep)
        raise
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def _left(out: Path, aside: Path | None, sweep: Sweep) -> str:
    """Keep what finished of a sweep that ended early, or put back what it replaced; returns which, for its user."""
    done = len(finished(out))
    if done:
        for note in out.glob(f".*{_FAILED}"):
            note.unlink()
        before = ", in place of the earlier sweep" if aside is not None else ""
        return f"what finished ({done} of {len(sweep.jobs)}) is in {out}{before}"
    shutil.rmtree(out, ignore_errors=True)
    if aside is None:
        return ""
    (aside / out.name).rename(out)
    return f"no job finished, so {out} is the earlier sweep"


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


def finish(out: Path) -> None:
    """Write `sweep.csv`, `sweep.md` and `paired.csv` over the jobs, print the table, say where everything is."""
    comparison = collect(find_runs([out]))
    for note in comparison.notes:
        print(f"tokencake run: {note}", file=sys.stderr)
    tables.save(comparison, out, name="sweep")
    tables.show(comparison)
    print(f"{counted(len(comparison.runs), 'run')}: {out} (sweep.csv, sweep.md); figures: tokencake plot {out}")
