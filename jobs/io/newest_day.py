"""Find the complete days of the impression log, and the newest one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from zoneinfo import ZoneInfo

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.contracts.dates import UNDATED
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.features.cleaning.clean_log import clean_log
from star_ctr.jobs.io import log_reader
from star_ctr.jobs.io.completeness import find_incomplete_sources, find_newest_complete_day
from star_ctr.jobs.io.log_files import describe_no_files, list_log_days, make_glob

_COMPLETE = 0.1
"""Minimum rows of a complete day, relative to the median day: a few rows with a wrong clock are not a day."""


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
    rows = _count_rows(settings, spark)
    today = _get_today(settings)
    if days := list_complete(rows, today):
        return days[-1]
    raise DataError(
        f"logs.impressions.path: no valid rows before today ({today}) in {make_glob(settings, log)}; run "
        "`star-ctr check` to find the reason"
    )


def list_complete_days(settings: Settings, spark: SparkSession) -> list[str]:
    """Return all complete days of the impression log, in ascending order; see `find_newest_day`."""
    if settings.logs.impressions.has_day:
        days = list_log_days(settings, "impressions")
        incomplete = find_incomplete_sources(settings, days)
        return [day for day, source in zip(days, incomplete, strict=True) if source is None]
    return list_complete(_count_rows(settings, spark), _get_today(settings))


def _count_rows(settings: Settings, spark: SparkSession) -> dict[str, int]:
    """Count the valid rows of the impression log by day."""
    raw = log_reader.read(settings, spark, "impressions", None)
    if raw is None:
        return {}
    good = clean_log(settings, "impressions", raw).where(F.col("reason").isNull())
    return {r.ds: r["count"] for r in good.groupBy("ds").count().collect()}


def _get_today(settings: Settings) -> str:
    return dt.datetime.now(ZoneInfo(settings.zone)).date().isoformat()


def list_complete(rows: Mapping[str, int], today: str) -> list[str]:
    """Select the complete days before `today`.

    Args:
        rows: The number of rows by `ds`.
        today: The current day, which does not count as complete.

    Returns:
        The days with at least a tenth of the median day's rows, in ascending order.
    """
    past = sorted(day for day in rows if day < today and day not in UNDATED)
    sizes = sorted(rows[day] for day in past)
    return [day for day in past if rows[day] >= _COMPLETE * sizes[len(sizes) // 2]]
