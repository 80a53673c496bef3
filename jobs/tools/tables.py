"""Tables: list the tables of the warehouse, and show their rows. Needs no Spark."""

from __future__ import annotations

from typing import Any, NamedTuple

from deltalake import DeltaTable

from star_ctr.conf.contracts.catalog import TABLES, Warehouse
from star_ctr.conf.errors import UserError, suggest_nearest
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.table_reader import open_table, query_tables


class TableRows(NamedTuple):
    """Some rows of a table.

    Attributes:
        rows: The rows by column. Numbers, booleans, strings, lists and null are kept, a binary value becomes its size,
            such as `12 bytes`, and any other value becomes text. Times are in UTC.
        total: The number of rows that meet the condition.
    """

    rows: list[dict[str, Any]]
    total: int


def run(settings: Settings) -> list[dict[str, Any]]:
    """List all tables.

    Args:
        settings: The settings, with the warehouse.

    Returns:
        One entry per table: table, version, rows, description and path. Version and rows are None if the
        table has not been written yet.
    """
    warehouse = Warehouse(settings.paths)
    entries = []
    for name, table in TABLES.items():
        path = warehouse.table(name)
        found = open_table(warehouse, name) if DeltaTable.is_deltatable(path) else None
        entries.append(
            {
                "table": name,
                "version": found.version() if found else None,
                "rows": found.count() if found else None,
                "description": table.about,
                "path": path,
            }
        )
    return entries


def read_table_rows(settings: Settings, name: str, where: str | None, limit: int, conf: str = "FILE") -> TableRows:
    """Return up to `limit` rows of a table, in no particular order.

    Args:
        settings: The settings, with the warehouse.
        name: The table.
        where: SQL condition that selects rows; all rows if None.
        limit: Maximum number of rows.
        conf: The YAML file, as the messages of errors name it.

    Returns:
        The rows, and the number of all rows that meet the condition.

    Raises:
        DataError: The table has not been written yet.
        UserError: `name` is not a table of the warehouse, or `where` is not a condition on its columns.
    """
    if name not in TABLES:
        raise UserError(f"--show {name}: no such table{suggest_nearest(name, TABLES)} (tables: {', '.join(TABLES)})")
    tables = {name: open_table(Warehouse(settings.paths), name, conf=conf)}
    condition = f" WHERE ({where})" if where else ""
    try:
        total = query_tables(f"SELECT count(*) AS n FROM {name}{condition}", tables)["n"][0].as_py()
        rows = query_tables(f"SELECT * FROM {name}{condition} LIMIT {limit}", tables).to_pylist()
    except UserError as error:
        reason = str(error).rpartition(f"{condition}: ")[2] or str(error)
        raise UserError(f"--where {where}: {reason}") from None
    return TableRows([{key: _shorten(value) for key, value in row.items()} for row in rows], total)


def _shorten(value: Any) -> Any:
    """Return a value for display: the size of binary values, and a string for other types."""
    if isinstance(value, bytes | bytearray):
        return f"{len(value)} bytes"
    return value if isinstance(value, int | float | str | list | None) else str(value)
