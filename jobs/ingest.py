"""Ingest: the daily logs of the training window and the day itself into clean Delta tables.

Exact duplicates are dropped and counted, rows that cannot be used go to `quarantine` whole and with a
reason, and `ledger` balances: rows read = written + duplicates + quarantined, by log, day and domain.

    spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/ingest.py --conf conf/kuairand.yaml
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from zoneinfo import ZoneInfo

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.contracts.dates import BEFORE_FIRST_DAY, NO_DAY, check_day, list_days_before, list_window_days
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.features.cleaning.clean_log import UNKNOWN_DAY, clean_log, count_rows, dump_row
from star_ctr.features.cleaning.duplicates import DUPLICATE
from star_ctr.jobs.io import log_reader
from star_ctr.jobs.io.log_files import REACH_BACK, has_day_in_path, list_days, make_glob
from star_ctr.jobs.io.session import run_submitted_step
from star_ctr.jobs.io.warehouse import (
    WarehouseTables,
    collect_ledger_entries,
    make_in_condition,
    quote_spark_literal,
    repartition_by_day,
)
from star_ctr.jobs.quality.day_checks import check_quarantine

UNDATED = (NO_DAY, BEFORE_FIRST_DAY, UNKNOWN_DAY)
_COMPLETE = 0.1
"""Minimum rows of the newest day, relative to the median day: a few rows with a wrong clock are not a day."""


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> dict[str, int]:
    """Write the tables of all declared logs; returns the rows written by log.

    Raises:
        DataError: A log cannot be read, holds no row of the day, or too many rows of a day are quarantined. All tables,
            the quarantine and the ledger are written first, for inspection.
    """
    ds = check_day(ds) if ds else find_newest_day(settings, spark)
    store = WarehouseTables(settings, spark)
    read: dict[str, int] = {}
    written = {name: _ingest_log(settings, store, name, ds, read) for name in settings.logs.declared()}
    check_quarantine(settings, store, ds, read)
    return written


def find_newest_day(settings: Settings, spark: SparkSession) -> str:
    """Return the newest complete day of the impression log.

    This is the newest day in its path, if the path has days. Otherwise it is the newest day before today with about as
    many rows as other days: a single phone with a wrong clock must not determine the day.
    """
    log = settings.logs.impressions
    if has_day_in_path(log):
        if found := list_days(settings, "impressions"):
            return found[-1]
        raise DataError(f"logs.impressions.path: no file matches {make_glob(settings, log)} for any day")
    raw = log_reader.read(settings, spark, "impressions", None)
    rows: dict[str, int] = {}
    if raw is not None:
        good = clean_log(settings, "impressions", raw).where(F.col("reason").isNull())
        rows = {r.ds: r["count"] for r in good.groupBy("ds").count().collect()}
    today = dt.datetime.now(ZoneInfo(settings.zone)).date().isoformat()
    if day := find_newest_complete(rows, today):
        return day
    raise DataError(f"logs.impressions.path: no usable rows before today in {make_glob(settings, log)}")


def check_day_has_files(settings: Settings, ds: str) -> str:
    """Return `ds`; raise `DataError` if the impression log has days in its path, but no file of this one."""
    log = settings.logs.impressions
    if not has_day_in_path(log) or check_day(ds) in (there := list_days(settings, "impressions")):
        return check_day(ds)
    found = f"there are files of {there[0]} to {there[-1]}" if there else "there are no files of any day"
    raise DataError(f"--ds {ds}: {make_glob(settings, log)} matches no file of this day; {found}")


def find_newest_complete(rows: Mapping[str, int], today: str) -> str | None:
    """Return the newest day before `today` with at least a tenth of the median day's rows; None if there is none."""
    past = sorted(day for day in rows if day < today and day not in UNDATED)
    sizes = sorted(rows[day] for day in past)
    return next((day for day in reversed(past) if rows[day] >= _COMPLETE * sizes[len(sizes) // 2]), None)


def _ingest_log(settings: Settings, store: WarehouseTables, name: str, ds: str, read_rows: dict[str, int]) -> int:
    """Write the table of one log; returns the rows written.

    If some rows have no day, sets `read_rows[name]` to the number of rows read, of all days.
    """
    wanted = list_window_days(settings, ds)
    log = settings.logs.declared()[name]
    reaches_back = name in REACH_BACK
    # Read days before the window too, so that the same rows are duplicates whichever night runs.
    read = None if reaches_back else [*list_days_before(wanted[0], getattr(log, "duplicate_days", 0)), *wanted]
    raw = log_reader.read(settings, store.spark, name, read)
    if raw is None:
        if name == "impressions":
            raise DataError(f"logs.impressions.path: no file for {wanted[0]} to {ds} in {make_glob(settings, log)}")
        if not store.exists(name):
            return 0
    rows = store.read(name).limit(0) if raw is None else clean_log(settings, name, raw)
    if raw is None:
        rows = rows.withColumns({"reason": F.lit(None).cast("string"), "raw": F.lit(None).cast("string")})
    chosen = F.expr(make_in_condition("ds", UNDATED)) | (
        F.col("ds") <= ds if reaches_back else F.col("ds").isin(wanted)
    )
    rows = rows.where(chosen).persist()
    try:
        ledger = collect_ledger_entries(count_rows(rows, F.col("domain") if name == "impressions" else F.lit("all")))
        found = {entry.ds for entry in ledger}
        if UNKNOWN_DAY in found and raw is not None:
            read_rows[name] = sum(frame.count() for frame in raw.values())
        if name == "impressions" and ds not in found:
            raise DataError(
                f"{make_glob(settings, log)}: no row of day {ds}; the newest day there is "
                f"{find_newest_day(settings, store.spark)}"
            )
        # A log that is read as a whole replaces all its days, which removes the days of deleted files.
        where = (
            f"{make_in_condition('ds', UNDATED)} OR ds <= {quote_spark_literal(ds)}"
            if reaches_back
            else make_in_condition("ds", [*wanted, *UNDATED])
        )
        order = ["key"] if name in ("users", "items") else ["user_id", "ts"] if "user_id" in rows.columns else ["ts"]
        good = rows.where(F.col("reason").isNull()).drop("reason", "raw")
        store.replace(name, repartition_by_day(good).sortWithinPartitions("ds", *order), where)
        _write_quarantine(store, name, rows, where, any(e.reason not in ("", DUPLICATE) for e in ledger))
        store.write_ledger("ingest" if name == "impressions" else f"ingest.{name}", ledger, where)
        return sum(entry.rows_out for entry in ledger)
    finally:
        rows.unpersist()


def _write_quarantine(store: WarehouseTables, name: str, rows: DataFrame, where: str, any_bad: bool) -> None:
    """Replace the quarantined rows of a log; writes nothing if there are none now and were none before."""
    there = store.exists("quarantine")
    if there and not any_bad and not any(p["log"] == name for p in store.partitions("quarantine")):
        return
    left_out = rows.where(F.col("reason").isNotNull() & (F.col("reason") != DUPLICATE))
    quarantined = left_out.select(F.lit(name).alias("log"), "ds", "reason", dump_row(left_out).alias("row"))
    store.replace("quarantine", repartition_by_day(quarantined), f"log = '{name}' AND ({where})")


if __name__ == "__main__":
    run_submitted_step("ingest")
