"""Ingest: clean the daily logs and write them to Delta tables.

The step reads the logs of the training window and of the day `ds`:

1. Clean rows go to the table of their log, with one partition per day.
2. Exact duplicates are dropped and counted.
3. Invalid rows go to `quarantine`, complete and with a reason.
4. `ledger` counts rows by log, day, domain and reason: rows read = rows written + duplicates +
   quarantined rows + rows left out by `where` + rows of a log without days that an earlier night has written.
5. `profile` describes the rows of each log and day, such as the share of missing values by column.

    spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/ingest.py --conf conf/kuairand.yaml
"""

from __future__ import annotations

import logging

from pyspark.sql import SparkSession

from star_ctr.conf.contracts.dates import check_day, list_window_days
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.completeness import find_incomplete_sources
from star_ctr.jobs.io.log_files import describe_no_files, list_files, list_log_days, make_glob
from star_ctr.jobs.io.log_writer import write_log
from star_ctr.jobs.io.newest_day import find_newest_day
from star_ctr.jobs.io.session import run_submitted_step
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.quality.day_checks import check_quarantine

_logger = logging.getLogger(__name__)


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
    found = {name: write_log(settings, store, name, ds) for name in settings.logs.get_declared()}
    check_quarantine(settings, store, ds, {name: log.read for name, log in found.items() if log.read is not None})
    return {name: log.rows for name, log in found.items()}


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


if __name__ == "__main__":
    run_submitted_step("ingest")
