"""Output hashes of the tables that ingest writes, to detect days whose rows have changed."""

from __future__ import annotations

from pyspark.sql import functions as F

from star_ctr.conf.contracts.dates import BEFORE_FIRST_DAY, NO_DAY, list_window_days
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.log_files import UNWINDOWED_LOGS
from star_ctr.jobs.io.warehouse import WarehouseTables


def hash_tables(settings: Settings, store: WarehouseTables, ds: str) -> dict[str, dict[str, str]]:
    """Hash the tables that ingest wrote for night `ds`.

    Args:
        settings: The settings of the data set.
        store: The tables.
        ds: The night.

    Returns:
        For each table and day, the row count and the sum of the row hashes, as text. The result does not depend on how
        rows are distributed over files.
    """
    first = list_window_days(settings, ds)[0]
    found: dict[str, dict[str, str]] = {}
    for name in settings.logs.get_declared():
        if not store.exists(name):
            continue
        rows = store.read(name)
        since = F.lit(True) if name in UNWINDOWED_LOGS else F.col("ds") >= first
        written = F.col("ds").isin(NO_DAY, BEFORE_FIRST_DAY) | (since & (F.col("ds") <= ds))
        columns = [F.col(f"`{c}`") for c in sorted(rows.columns)]
        # xxhash64 skips nulls. Without the flags, a value that moves to the next column would not change the hash.
        hashed = F.xxhash64(*(part for c in columns for part in (c.isNull(), c))).cast("decimal(38, 0)")
        days = rows.where(written).groupBy("ds").agg(F.count("*").alias("rows"), F.sum(hashed).alias("sum"))
        found[name] = {r.ds: f"{r.rows}:{r.sum}" for r in days.collect()}
    return found
