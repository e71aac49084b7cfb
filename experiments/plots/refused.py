"""What a figure of latencies says of programs that were refused."""

import pandas as pd
from matplotlib.figure import Figure

from tokencake.experiments.comparison import Comparison, finished
from tokencake.experiments.keys import with_value
from tokencake.experiments.plots.style import note


def note_refused(figure: Figure, comparison: Comparison, rows: pd.DataFrame, more: str = "") -> None:
    """Say below the axes how many programs the latencies are of, where some were refused.

    Args:
        figure: Where latencies are shown.
        comparison: What it is of.
        rows: The runs that are shown.
        more: What is to be said beside it.
    """
    counts = finished(rows)
    if not counts:
        return
    for by in filter(None, ("series", comparison.load)):  # whichever makes a difference
        which: dict[str, list[str]] = {}
        for value, own in rows.groupby(by, sort=by != "series"):
            name = str(value) if by == "series" else with_value(by, value.item() if hasattr(value, "item") else value)
            which.setdefault(finished(own) or "all", []).append(name)
        if len(which) > 1:
            counts = "; ".join(f"{count} ({'; '.join(names)})" for count, names in which.items())
            break
    text = f"Programs that finished: {counts}. The others were refused and are in no latency. {more}"
    note(figure, text.rstrip())
