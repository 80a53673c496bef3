"""Find the newest complete day of the impression log."""

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
from star_ctr.jobs.io.completeness import find_newest_complete_day
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
