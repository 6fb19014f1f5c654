"""Tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


#: Of tables that go to a file or a pipe.
_WIDTH = 160


def table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def print_tables(*tables: Table) -> None:
    """Print tables one below the other."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    for shown in tables:
        title, shown.title = shown.title, None
        if title is not None:
            console.print(title, highlight=False)
        console.print(shown)
