"""`tokencake plot`: figures and tables from run directories."""

import sys
from collections.abc import Sequence
from pathlib import Path

from tokencake.experiments import tables
from tokencake.experiments.arguments import Parser
from tokencake.experiments.comparison import collect
from tokencake.experiments.plots import FIGURES, draw
from tokencake.experiments.renewing import renewing
from tokencake.experiments.results import find_runs
from tokencake.experiments.sweep import missing

_FORMATS = ("png", "pdf", "svg")


def run(words: Sequence[str]) -> None:
    """Draw what the words ask for and say where it is.

    Raises:
        UsageError: no runs there, or the output cannot be written or is there already.
    """
    parser = Parser(prog="tokencake plot", description=f"Draws {', '.join(FIGURES)} and a table.")
    parser.add_argument("directories", nargs="+", type=Path, metavar="RUN_OR_SWEEP_DIR")
    parser.add_argument("--out", type=Path, help="where to write (default: figures/ in the first directory)")
    parser.add_argument("--format", action="append", choices=_FORMATS, help="may be repeated; default: png and pdf")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in the directory given by --out")
    parser.add_argument("--no-table", action="store_true", help="do not print the table (it is written all the same)")
    chosen = parser.parse_args(words)
    comparison = collect(find_runs(chosen.directories))
    for note in (*missing(chosen.directories), *comparison.notes):
        print(f"tokencake plot: {note}", file=sys.stderr)
    formats = tuple(dict.fromkeys(chosen.format or ("png", "pdf")))
    ours = [*(f"{name}.{kind}" for name in FIGURES for kind in formats), *tables.FILES]
    out = chosen.out or chosen.directories[0] / "figures"
    with renewing(out, ours, replace=chosen.overwrite or chosen.out is None) as folder:
        written = [*draw(comparison, folder, formats), *tables.save(comparison, folder)]
    if not chosen.no_table:
        tables.show(comparison)
    for path in written:
        print(f"  {out / path.name}")
