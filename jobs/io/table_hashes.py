"""Hashes of the rows that `ingest` writes, to detect days whose rows have changed."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from pyspark.sql import functions as F

from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.day_records import DayRecord, DayRecords
from star_ctr.jobs.io.ingest_plan import list_records_of_night
from star_ctr.jobs.io.warehouse import WarehouseTables

HASH = "rows"
"""Key of the number and the hash of the rows in the record of a day."""


def hash_days(
    store: WarehouseTables, table: str, days: Collection[str], columns: Collection[str] | None = None
) -> dict[str, str]:
    """Hash the rows of some days of a table.

    Args:
        store: The tables.
        table: The table, which has a column `ds`.
        days: The days.
        columns: The columns to hash; all by default.

    Returns:
        For each day that has rows, the row count and the sum of the row hashes, as text. The result does not depend on
        how rows are distributed over files.
    """
    rows = store.read(table).where(F.col("ds").isin(list(days)))
    named = [F.col(f"`{c}`") for c in sorted(columns or rows.columns)]
    # xxhash64 skips nulls. Without the flags, a value that moves to the next column would not change the hash.
    hashed = F.xxhash64(*(part for c in named for part in (c.isNull(), c))).cast("decimal(38, 0)")
    found = rows.groupBy("ds").agg(F.count("*").alias("rows"), F.sum(hashed).alias("sum")).collect()
    return {r.ds: f"{r.rows}:{r.sum}" for r in found}


def merge_hashes(records: Iterable[DayRecord]) -> dict[str, str]:
    """Return the hashes of the rows in records of `ingest`, by day."""
    return {day: rows for record in records for day, rows in record.outputs[HASH].items()}


def read_hashes(settings: Settings, ds: str) -> dict[str, dict[str, str]]:
    """Return the hashes of the ingested rows that night `ds` reads, by table and day; needs no Spark."""
    records, found = DayRecords(settings), dict[str, dict[str, str]]()
    for name in settings.logs.get_declared():
        days = list_records_of_night(settings, name, ds, records.read(f"ingest.{name}"))
        if days:
            found[name] = merge_hashes(days.values())
    return found
