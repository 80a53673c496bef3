"""Ingest: clean the daily logs and write them to Delta tables.

The step reads the logs of the training window and of the day `ds`:

1. Clean rows go to the table of their log, with one partition per day.
2. Exact duplicates are dropped and counted.
3. Invalid rows go to `quarantine`, complete and with a reason.
4. `ledger` counts rows by log, day, domain and reason: rows read = rows written + duplicates +
   quarantined rows + rows left out by `where`.
5. `profile` describes the rows of each log and day, such as the share of missing values by column.

    spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/ingest.py --conf conf/kuairand.yaml
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable, Mapping
from zoneinfo import ZoneInfo

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.contracts.dates import BEFORE_FIRST_DAY, NO_DAY, check_day, list_days_before, list_window_days
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.features.cleaning.clean_log import NOT_QUARANTINED, UNKNOWN_DAY, clean_log, dump_row
from star_ctr.features.cleaning.log_columns import find_missing_columns
from star_ctr.jobs.io import log_reader
from star_ctr.jobs.io.completeness import find_incomplete_sources, find_newest_complete_day
from star_ctr.jobs.io.log_files import UNWINDOWED_LOGS, describe_no_files, list_files, list_log_days, make_glob
from star_ctr.jobs.io.session import run_submitted_step
from star_ctr.jobs.io.warehouse import (
    LedgerEntry,
    WarehouseTables,
    make_in_condition,
    quote_spark_literal,
    repartition_by_day,
)
from star_ctr.jobs.quality.day_checks import check_quarantine
from star_ctr.jobs.quality.log_profile import RowCount, collect_row_counts, profile_log
from star_ctr.jobs.quality.measures import Measure, write_measures

_logger = logging.getLogger(__name__)
UNDATED = (NO_DAY, BEFORE_FIRST_DAY, UNKNOWN_DAY)
"""Values of `ds` that are not a day."""
_COMPLETE = 0.1
"""Minimum rows of a complete day, relative to the median day: a few rows with a wrong clock are not a day."""


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> dict[str, int]:
    """Write the tables of all declared logs.

    Args:
        settings: The settings of the data set.
        spark: The Spark session.
        ds: The day, for example 2022-05-05; by default the newest complete day of the impression log.

    Returns:
        The number of rows written, by log.

    Raises:
        DataError: A log cannot be read, has no rows for the day, or too many rows of a day are quarantined
            (`checks.max_quarantined`). In the last case, all tables, the quarantine and the ledger are written first,
            so that they can be inspected.
    """
    ds = check_day_has_files(settings, ds) if ds else find_newest_day(settings, spark)
    _warn_of_incomplete_days(settings, ds)
    store = WarehouseTables(settings, spark)
    rows_read: dict[str, int] = {}
    measures: list[Measure] = []
    written = {
        name: _ingest_log(settings, store, name, ds, rows_read, measures) for name in settings.logs.get_declared()
    }
    _write_profile(settings, ds, measures)
    check_quarantine(settings, store, ds, rows_read)
    return written


def find_newest_day(settings: Settings, spark: SparkSession) -> str:
    """Return the newest complete day of the impression log.

    If the log's path contains days, this is the newest day whose files are complete. Otherwise, it is the newest day
    before today with at least a tenth of the median day's rows, so that one device with a wrong clock does not
    determine the day.

    Raises:
        DataError: No file matches the path, or there are no valid rows before today.
    """
    log = settings.logs.impressions
    if log.has_day:
        if day := find_newest_complete_day(settings):
            return day
        if days := list_log_days(settings, "impressions"):
            raise DataError(
                f"logs.impressions.complete: no day is complete in {make_glob(settings, log)}; run `star-ctr ready "
                f"--ds {days[-1]}` to see what is missing"
            )
        raise DataError(describe_no_files(settings, "impressions"))
    raw = log_reader.read(settings, spark, "impressions", None)
    rows: dict[str, int] = {}
    if raw is not None:
        good = clean_log(settings, "impressions", raw).where(F.col("reason").isNull())
        rows = {r.ds: r["count"] for r in good.groupBy("ds").count().collect()}
    today = dt.datetime.now(ZoneInfo(settings.zone)).date().isoformat()
    if day := find_newest_complete(rows, today):
        return day
    raise DataError(
        f"logs.impressions.path: no valid rows before today ({today}) in {make_glob(settings, log)}; run "
        "`star-ctr check` to find the reason"
    )


def check_day_has_files(settings: Settings, ds: str) -> str:
    """Return `ds`, normalized, if the logs of this day are complete.

    Raises:
        DataError: `ds` is not a day; or the path of the impression log contains days, and the files of this day are
            missing; or a log with a rule `complete` is not complete.
    """
    log, day = settings.logs.impressions, check_day(ds)
    if log.has_day:
        days = list_log_days(settings, "impressions")
        if not days:
            raise DataError(describe_no_files(settings, "impressions"))
        if day not in days:
            raise DataError(
                f"--ds {ds}: {make_glob(settings, log)} matches no file of this day; the files found are for {days[0]} "
                f"to {days[-1]}"
            )
    if source := next(find_incomplete_sources(settings, [day])):
        raise DataError(
            f"--ds {ds}: logs.{source.log} is not complete: {source.missing}; wait for the files, or change `complete` "
            "of the log"
        )
    return day


def _warn_of_incomplete_days(settings: Settings, ds: str) -> None:
    """Log a warning for each earlier day of the window that is not complete; its rows are used nevertheless."""
    logs = settings.logs.get_declared().values()
    if not any(log.sources or any(source.complete for source in log.list_sources().values()) for log in logs):
        return
    first = min((file.day for file in list_files(settings, "impressions") if file.day), default=ds)
    days = [day for day in list_window_days(settings, ds)[:-1] if day >= first]
    for day, source in zip(days, find_incomplete_sources(settings, days), strict=True):
        if source:
            _logger.warning("%s: logs.%s is not complete: %s", day, source.log, source.missing)


def find_newest_complete(rows: Mapping[str, int], today: str) -> str | None:
    """Return the newest complete day before `today`.

    Args:
        rows: The number of rows by `ds`.
        today: The current day, which does not count as complete.

    Returns:
        The newest day with at least a tenth of the median day's rows; None if there is none.
    """
    past = sorted(day for day in rows if day < today and day not in UNDATED)
    sizes = sorted(rows[day] for day in past)
    return next((day for day in reversed(past) if rows[day] >= _COMPLETE * sizes[len(sizes) // 2]), None)


def _ingest_log(
    settings: Settings, store: WarehouseTables, name: str, ds: str, rows_read: dict[str, int], measures: list[Measure]
) -> int:
    """Write the table of one log, its quarantine and its ledger entries.

    Args:
        settings: The settings of the data set.
        store: The tables.
        name: The log.
        ds: The day.
        rows_read: Output argument. If some rows have no day, `rows_read[name]` is set to the number of rows read, of
            all days.
        measures: Output argument. The profile of the log on the days of the window is added.

    Returns:
        The number of rows written.

    Raises:
        DataError: No file of `impressions` exists for the window, or `impressions` has no rows for the day.
    """
    window = list_window_days(settings, ds)
    log = settings.logs.get_declared()[name]
    reaches_back = name in UNWINDOWED_LOGS
    # Read days before the window too, so that the same rows are duplicates whichever night runs.
    days = None if reaches_back else [*list_days_before(window[0], getattr(log, "duplicate_days", 0)), *window]
    raw = log_reader.read(settings, store.spark, name, days)
    if raw is None:
        if name == "impressions":
            raise DataError(
                f"logs.impressions.path: {make_glob(settings, log)} matches no file for {window[0]} to {ds}; check "
                f"--ds and paths.logs ({settings.paths.logs})"
            )
        if not store.exists(name):
            return 0
    if raw is not None:
        columns = {column for group in raw.values() for column in group.rows.columns}
        if missing := find_missing_columns(settings, name, columns):
            raise DataError("\n".join(missing))
    rows = store.read(name).limit(0) if raw is None else clean_log(settings, name, raw)
    if raw is None:
        rows = rows.withColumns({"reason": F.lit(None).cast("string"), "raw": F.lit(None).cast("string")})
    selected = F.expr(make_in_condition("ds", UNDATED)) | (
        F.col("ds") <= ds if reaches_back else F.col("ds").isin(window)
    )
    rows = rows.where(selected).persist()
    try:
        counts = collect_row_counts(settings, rows)
        ledger = _sum_ledger_entries(counts)
        found = {entry.ds for entry in ledger}
        if UNKNOWN_DAY in found and raw is not None:
            rows_read[name] = sum(group.rows.count() for group in raw.values())
        if name == "impressions" and ds not in found:
            remedy = "write the logs of this day again"
            if not log.has_day:
                remedy = f"the newest complete day is {find_newest_day(settings, store.spark)}"
            raise DataError(
                f"{make_glob(settings, log)}: no rows for day {ds}; {remedy}, or pass another day with --ds"
            )
        # A log that is read as a whole replaces all its days, which removes the days of deleted files.
        where = (
            f"{make_in_condition('ds', UNDATED)} OR ds <= {quote_spark_literal(ds)}"
            if reaches_back
            else make_in_condition("ds", [*window, *UNDATED])
        )
        order = ["key"] if name in ("users", "items") else ["user_id", "ts"] if "user_id" in rows.columns else ["ts"]
        good = rows.where(F.col("reason").isNull()).drop("reason", "raw")
        store.replace(name, repartition_by_day(good).sortWithinPartitions("ds", *order), where)
        _write_quarantine(store, name, rows, where, any(e.reason not in ("", *NOT_QUARANTINED) for e in ledger))
        store.write_ledger("ingest" if name == "impressions" else f"ingest.{name}", ledger, where)
        profiled = [*window, NO_DAY]
        in_window = [count for count in counts if count.ds in profiled]
        measures += profile_log(settings, name, rows.where(F.col("ds").isin(profiled)), in_window)
        return sum(entry.rows_out for entry in ledger)
    finally:
        rows.unpersist()


def _sum_ledger_entries(counts: Iterable[RowCount]) -> list[LedgerEntry]:
    """Sum the counts of all hours."""
    sums: dict[tuple[str, str, str], int] = {}
    for count in counts:
        key = (count.ds, count.domain, count.reason)
        sums[key] = sums.get(key, 0) + count.rows
    return [LedgerEntry(ds, domain, n, 0 if reason else n, reason) for (ds, domain, reason), n in sums.items()]


def _write_profile(settings: Settings, ds: str, measures: Iterable[Measure]) -> None:
    """Replace the profile of the window. The profile of a table without days describes it as of the night `ds`."""
    measures = list(measures)
    undated = sorted({m.log for m in measures if m.ds == NO_DAY})
    where = make_in_condition("ds", list_window_days(settings, ds))
    if undated:
        where += f" AND (ds = '{ds}' OR NOT {make_in_condition('log', undated)})"
    write_measures(settings, "ingest", (m._replace(ds=ds) if m.ds == NO_DAY else m for m in measures), where)


def _write_quarantine(store: WarehouseTables, name: str, rows: DataFrame, where: str, has_invalid: bool) -> None:
    """Replace the quarantined rows of a log; does nothing if neither the existing table nor `rows` has any."""
    exists = store.exists("quarantine")
    if exists and not has_invalid and not any(p["log"] == name for p in store.list_partitions("quarantine")):
        return
    invalid = rows.where(F.col("reason").isNotNull() & ~F.col("reason").isin(*NOT_QUARANTINED))
    quarantined = invalid.select(F.lit(name).alias("log"), "ds", "reason", dump_row(invalid).alias("row"))
    store.replace("quarantine", repartition_by_day(quarantined), f"log = '{name}' AND ({where})")


if __name__ == "__main__":
    run_submitted_step("ingest")
