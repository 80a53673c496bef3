"""Table of rows of any table of the warehouse, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from star_ctr.workflows import terminal

MAX_LENGTH = 200
"""Maximum number of characters of a printed value."""


def make_records_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table with one line per row if the terminal is wide enough, otherwise with one line per column.

    Values with more than MAX_LENGTH characters, such as lists and training records, are truncated and end with `…`.
    """
    columns = list(rows[0]) if rows else []
    shown = [{name: _truncate(value) for name, value in row.items()} for row in rows]
    widths = (max(len(c), *(len(terminal.format_cell(row[c])) for row in shown)) for c in columns)
    if sum(width + 3 for width in widths) < terminal.stdout.width:
        return terminal.make_table(shown, columns)
    table = Table("column", Column("value", overflow="fold"), show_header=False)
    for row in shown:
        for column, value in row.items():
            # Text, because the brackets of a list could be read as markup.
            table.add_row(column, Text(str(value)))
        table.add_section()
    return table


def _truncate(value: Any) -> Any:
    """Return a value whose text has at most MAX_LENGTH characters."""
    text = str(value)
    return value if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 1]}…"
