"""Tables: what stands in the warehouse, with path, version and rows."""

from __future__ import annotations

from typing import Any

from pyspark.sql import SparkSession

from star_ctr.conf.settings import Settings
from star_ctr.conf.tables import TABLES
from star_ctr.jobs.session import submitted
from star_ctr.jobs.store import Store


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> list[dict[str, Any]]:
    """One entry a table; version and rows are null for one that was never written."""
    store = Store(settings, spark)
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


if __name__ == "__main__":
    submitted("tables", run)
