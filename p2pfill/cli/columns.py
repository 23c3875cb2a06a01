"""Tables that are as wide as the terminal, or narrower: the least important columns are left out where not all fit.

Cut cells say nothing, and a table whose rows break in two is hard to read. So whole columns go, and what goes is said.
What remains, such as a long name, is broken into lines and never cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text


class Column(NamedTuple):
    """How a column is headed, and how early it goes."""

    name: str
    drops: int = 0
    """Columns with larger numbers are left out before those with smaller ones; those with 0 stay."""
    is_right: bool = False
    most: int = 0
    """It takes no more characters: longer cells are broken into lines. 0: they need what they need."""


def unbroken(text: str, style: str = "") -> Text:
    """Return text that is one line however long it is, where it is printed uncropped: what is to be copied."""
    return Text(text, style=style, no_wrap=True, overflow="ignore")


def table_within(
    width: int, columns: Sequence[Column], rows: Sequence[Sequence[Text | ProgressBar]], *, gap: int = 2
) -> RenderableType:
    """Return a table of at most `width` characters; a row has a cell a column, with `gap` blanks between them."""
    needs = [
        min(max([len(column.name), *(_width(row[place]) for row in rows)]), column.most or width)
        for place, column in enumerate(columns)
    ]
    kept = list(range(len(columns)))
    for place in sorted(kept, key=lambda place: -columns[place].drops):
        if sum(needs[one] + gap for one in kept) - gap <= width or not columns[place].drops:
            break
        kept.remove(place)
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for place in kept:
        column = columns[place]
        table.add_column(
            column.name, justify="right" if column.is_right else "left", overflow="fold", max_width=column.most or None
        )
    for row in rows:
        table.add_row(*(row[place] for place in kept))
    gone = [column.name for place, column in enumerate(columns) if place not in kept and column.name]
    if not gone:
        return table
    return Group(table, Text(f"not shown at this width: {', '.join(gone)}; --json has all", style="dim"))


def _width(cell: Text | ProgressBar) -> int:
    return (cell.width or 0) if isinstance(cell, ProgressBar) else cell.cell_len
