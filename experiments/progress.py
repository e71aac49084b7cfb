"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere; always on stderr."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tokencake.experiments.words import counted

Report = Callable[[int], None]
_EVERY_S = 10.0  # seconds between two plain lines


@contextmanager
def progress(label: str, unit: str, total: int | None = None) -> Iterator[Report]:
    """A function `report(done)` that shows how far the work is; a streamed trace has no known `total`."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain(label, unit, total)
        return
    known = "" if total is None else f" of {total}"
    done = TextColumn(f"{{task.completed}}{known} {unit}s")
    columns = (TextColumn("{task.description}"), BarColumn(), done)
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)


def _plain(label: str, unit: str, total: int | None) -> Report:
    last = time.monotonic()

    def report(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _EVERY_S:
            last = now
            much = counted(done, unit) if total is None else f"{done} of {counted(total, unit)}"
            print(f"{label}: {much} done", file=sys.stderr, flush=True)

    return report
