"""Tables on a terminal: whole, whatever its width."""

from collections.abc import Collection, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

_WIDE = 10_000  # characters; no table is wider
_GAP = 3  # between columns
_EDGES = 2


def print_table(
    head: Sequence[str],
    body: Sequence[Sequence[str]],
    *,
    numbers_from: int,
    caption: str = "",
    sections: Collection[int] = (),
) -> None:
    """Print a table; nothing is cut off.

    Where the terminal is too narrow, names are folded, and the columns of numbers are split into several tables, each
    with the columns that say what a row is. Where there is no terminal, lines are as long as they need to be.

    Args:
        head: Headings; a unit in brackets goes to a second line.
        body: Rows.
        numbers_from: Index of the first column of numbers.
        caption: Line below.
        sections: Indices of rows with a gap below.
    """
    console = Console()
    room = console.width if console.is_terminal else _WIDE
    titles = [title.replace(" (", "\n(") for title in head]
    widths = [
        max(len(line) for text in column for line in text.split("\n")) for column in zip(titles, *body, strict=True)
    ]
    names = max(1, room // (2 * numbers_from))  # characters for each column of names
    widths[:numbers_from] = [min(width, names) for width in widths[:numbers_from]]
    wide = Console(width=_WIDE)
    for columns in _split(widths, numbers_from, room):
        table = Table(box=box.SIMPLE, pad_edge=False)
        for index in columns:
            table.add_column(titles[index], max_width=widths[index], overflow="fold")
            table.columns[-1].justify = "right" if index >= numbers_from else "left"
        for row, cells in enumerate(body):
            table.add_row(*(cells[index] for index in columns), end_section=row in sections)
        wide.print(table)
    if caption:
        console.print(caption, highlight=False, soft_wrap=not console.is_terminal)


def _split(widths: Sequence[int], numbers_from: int, room: int) -> list[list[int]]:
    """Columns of each table; as few tables as will do."""
    names = list(range(numbers_from))
    tables = [list(names)]
    for index in range(numbers_from, len(widths)):
        used = sum(widths[i] + _GAP for i in tables[-1])
        if len(tables[-1]) > len(names) and used + widths[index] + _EDGES > room:
            tables.append(list(names))
        tables[-1].append(index)
    return tables
