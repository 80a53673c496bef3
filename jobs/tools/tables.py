"""Tables: what stands in the warehouse, with path, version and rows."""

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
    """One entry a table; version and rows are null for one that was never written."""
    store = WarehouseTables(settings, spark)
    entries = []
    for name, table in TABLES.items():
        there = store.exists(name)
        entries.append(
            {
                "table": name,
                "version": store.version(name) if there else None,
                "rows": store.read(name).count() if there else None,
                "holds": table.about,
                "path": store.warehouse.table(name),
            }
        )
    return entries


def show(settings: Settings, spark: SparkSession, name: str, where: str | None, limit: int) -> list[dict[str, Any]]:
    """The first rows of a table, or of those that an SQL condition holds for; packed columns as their size."""
    if name not in TABLES:
        raise UserError(f"--show {name}: no such table{suggest_nearest(name, TABLES)} (there are {', '.join(TABLES)})")
    rows = WarehouseTables(settings, spark).read(name)
    found = filter_rows(rows, where).limit(limit).collect()
    return [{key: _shorten(value) for key, value in row.asDict().items()} for row in found]


def _shorten(value: Any) -> Any:
    if isinstance(value, bytes | bytearray):
        return f"{len(value)} bytes"
    return value if isinstance(value, int | float | str | list | None) else str(value)


if __name__ == "__main__":
    run_submitted("tables", run)
