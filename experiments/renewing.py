"""Files that a command makes of results, such as figures: all of them appear, or none does."""

import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tokencake.experiments.errors import UsageError


@contextmanager
def renewing(out: Path, ours: Collection[str], *, replace: bool) -> Iterator[Path]:
    """Give a folder to write into; its files move to `out` when the block ends well. Files of strangers stay.

    Args:
        out: Where the files belong; made if it is not there.
        ours: Names of all files that may be made. Older ones that are not made this time show other runs, and go.
        replace: Whether older ones may be replaced.

    Raises:
        UsageError: `out` cannot be written, or holds files of `ours` that may not be replaced.
    """
    taken = [name for name in ours if (out / name).exists()]
    if taken and not replace:
        raise UsageError(f"--out {out}: {taken[0]} is there already; choose another, or replace it with --overwrite")
    fresh = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".", dir=out))
        try:
            yield temporary
            made = sorted(path.name for path in temporary.iterdir())
            for name in made:
                (temporary / name).replace(out / name)
            for name in set(taken) - set(made):
                (out / name).unlink()
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            if fresh:
                with suppress(OSError):  # it holds what was made
                    out.rmdir()
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written: {error.strerror or error}") from error
