"""Tables: list the tables of the warehouse, and show their rows."""

from __future__ import annotations

from typing import Any

from pyspark.sql import SparkSession

from star_ctr.conf.contracts.catalog import TABLES
from star_ctr.conf.errors import UserError, suggest_nearest
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.external_tables import filter_rows
from star_ctr.jobs.io.session import run_submitted
from star_ctr.jobs.io.warehouse import WarehouseTables


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> list[dict[str, Any]]:
    """List all tables.

    Args:
        settings: The settings, with the warehouse.
        spark: The session.
        ds: Unused; every job that `spark-submit` runs accepts a day.

    Returns:
        One entry per table: table, version, rows, description and path. Version and rows are None if the
        table has not been written yet.
    """
    store = WarehouseTables(settings, spark)
    entries = []
    for name, table in TABLES.items():
        exists = store.exists(name)
        entries.append(
            {
                "table": name,
                "version": store.version(name) if exists else None,
                "rows": store.read(name).count() if exists else None,
                "description": table.about,
                "path": store.warehouse.table(name),
            }
        )
    return entries


def read_table_rows(
    settings: Settings, spark: SparkSession, name: str, where: str | None, limit: int
) -> list[dict[str, Any]]:
    """Return up to `limit` rows of a table, in no particular order.

    Args:
        settings: The settings, with the warehouse.
        spark: The session.
        name: The table.
        where: SQL condition that selects rows; all rows if None.
        limit: Maximum number of rows.

    Returns:
        The rows by column. Numbers, booleans, strings, lists and null are kept, a binary value becomes its size, such
        as `12 bytes`, and any other value becomes text.

    Raises:
        DataError: The table has not been written yet.
        UserError: `name` is not a table of the warehouse, or Spark cannot analyze `where`.
    """
    if name not in TABLES:
        raise UserError(f"--show {name}: no such table{suggest_nearest(name, TABLES)} (tables: {', '.join(TABLES)})")
    rows = WarehouseTables(settings, spark).read(name)
    found = filter_rows(rows, where).limit(limit).collect()
    return [{key: _shorten(value) for key, value in row.asDict().items()} for row in found]


def _shorten(value: Any) -> Any:
    """Return a value for display: the size of binary values, and a string for other types."""
    if isinstance(value, bytes | bytearray):
        return f"{len(value)} bytes"
    return value if isinstance(value, int | float | str | list | None) else str(value)


if __name__ == "__main__":
    run_submitted("tables", run)
