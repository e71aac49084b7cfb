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
_REDRAWN_S = 0.1  # seconds between two looks of a bar that redraws itself only when something is reported


@contextmanager
def progress(label: str, unit: str, total: int | None = None, *, ticking: bool = True) -> Iterator[Report]:
    """A function `report(done)` that shows how far the work is; a streamed trace has no known `total`.

    A thread keeps the elapsed time ticking, unless the process's CPU time is what is measured.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain(label, unit, total)
        return
    known = "" if total is None else f" of {total}"
    done = TextColumn(f"{{task.completed}}{known} {unit}s")
    columns = (TextColumn("{task.description}"), BarColumn(), done)
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True, auto_refresh=ticking) as bar:
        task = bar.add_task(label, total=total)
        last = time.monotonic()

        def report(done: int) -> None:
            nonlocal last
            bar.update(task, completed=done)
            if not ticking and time.monotonic() - last >= _REDRAWN_S:
                bar.refresh()
                last = time.monotonic()

        yield report


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
