"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere; always on stderr."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Report = Callable[[int, int], None]
_EVERY_S = 10.0  # seconds between two plain lines


@contextmanager
def progress(label: str, unit: str) -> Iterator[Report]:
    """A function `report(done, total)` that shows how far the work is."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain(label, unit)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _plain(label: str, unit: str) -> Report:
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _EVERY_S:
            last = now
            print(f"{label}: {done} of {total} {unit}", file=sys.stderr, flush=True)

    return report
