"""References to columns in settings: `items.author_id`, or a built-in column such as `user_id`."""

from __future__ import annotations

import re
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from star_ctr.conf.errors import suggest_nearest

PLAIN_COLUMNS = ("user_id", "item_id", "domain", "hour", "weekday")
"""Columns that are written without a table."""
COLUMN_TABLES = ("impressions", "users", "items")
"""Tables whose columns features can read."""
_UNSUPPORTED = re.compile(r"[ ,;{}()\n\t=`]|%(?=[0-9A-Fa-f]{2})")


def escape_column_name(name: str) -> str:
    """Return a column name with the characters escaped that Delta does not support, as in a URL (space -> `%20`).

    Distinct names stay distinct.
    """
    return _UNSUPPORTED.sub(lambda match: f"%{ord(match[0]):02X}", name)


class ColumnRef(str):
    """A reference to a column that features can read, as it is written in the settings.

    Raises:
        ValueError: The text is neither a built-in column nor `table.column` with a known table.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> ColumnRef:
        """Check the text, and make the reference."""
        table, dot, column = text.partition(".")
        if (dot and table in COLUMN_TABLES and column) or (not dot and text in PLAIN_COLUMNS):
            return super().__new__(cls, text)
        hint = suggest_nearest(text, PLAIN_COLUMNS) if not dot else suggest_nearest(table, COLUMN_TABLES)
        raise ValueError(
            f"`{text}` is not a column; write one of {', '.join(PLAIN_COLUMNS)}, "
            f"or `table.column` with one of the tables {', '.join(COLUMN_TABLES)}{hint}"
        )

    @property
    def table(self) -> str | None:
        """The table; None for a built-in column."""
        table, dot, _ = self.partition(".")
        return table if dot else None

    @property
    def column(self) -> str:
        """The name of the column in its table."""
        return self.partition(".")[2] if self.table else str(self)

    @property
    def flat(self) -> str:
        """The name of the column in the table `features`: `items.author_id` -> `items_author_id`."""
        return escape_column_name(self.replace(".", "_"))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate a text as a reference, and write it as text."""
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema())
