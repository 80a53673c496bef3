"""Check: read the headers and first rows of the logs, and report problems before a long job starts."""

from __future__ import annotations

from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.errors import DataError, suggest_nearest
from star_ctr.conf.settings.features import list_read_columns
from star_ctr.conf.settings.root import Settings
from star_ctr.conf.settings.sources import Log
from star_ctr.features.cleaning.clean_log import NOT_QUARANTINED, clean_log
from star_ctr.features.cleaning.log_columns import INTERNAL
from star_ctr.features.cleaning.raw_rows import RawRows
from star_ctr.jobs.io import log_reader
from star_ctr.jobs.io.log_files import list_log_days, make_glob
from star_ctr.jobs.io.session import run_submitted

FIRST_ROWS = 2_000
"""Maximum number of rows to check per file schema."""


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> list[dict[str, Any]]:
    """Check the first rows of each declared log.

    Args:
        settings: The data set.
        spark: The session.
        ds: The day to check in logs that have a day in their path; their newest day by default.

    Returns:
        One entry per log: log, path, rows (the number of checked rows), problems (empty if there are none) and, if the
        log could be read, columns (their number) and days.
    """
    return [_check(settings, spark, name, log, ds) for name, log in settings.logs.get_declared().items()]


def _check(settings: Settings, spark: SparkSession, name: str, log: Log, ds: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {"log": name, "path": make_glob(settings, log), "rows": 0, "problems": []}
    try:
        days = [ds] if ds else list_log_days(settings, name)[-1:] if log.has_day else None
        raw = log_reader.read(settings, spark, name, days)
        if raw is None:
            of_days = f" for {', '.join(days)}" if days else ""
            raise DataError(f"logs.{name}.path: no file with data{of_days} matches {found['path']}")
        columns = {c for group in raw.values() for c in group.rows.columns if c not in INTERNAL}
        found["columns"] = len(columns)
        found["problems"] += _find_missing_columns(settings, name, columns)
        first = {
            file: RawRows(log, spark.createDataFrame(rows.limit(FIRST_ROWS).toArrow(), rows.schema))
            for file, (log, rows) in raw.items()
        }
        cleaned = clean_log(settings, name, first)
        reasons = cleaned.groupBy(F.coalesce("reason", F.lit("")).alias("reason")).count().collect()
        counts = {r.reason: r["count"] for r in reasons}
        found["rows"] = sum(counts.values())
        found["problems"] += [
            f"{n} of the first {found['rows']} rows: {reason}"
            for reason, n in sorted(counts.items())
            if reason not in ("", *NOT_QUARANTINED)
        ]
        found["days"] = sorted(r.ds for r in cleaned.select("ds").distinct().collect())
    except DataError as error:
        found["problems"] += str(error).split("\n")
    return found


def _find_missing_columns(settings: Settings, name: str, columns: set[str]) -> list[str]:
    """Return a message for each feature that reads a column which log `name` does not have."""
    problems = []
    for feature in settings.features:
        for column in list_read_columns(feature):
            if column.table == name and column.column not in columns:
                nearest = suggest_nearest(column.column, columns)
                problems.append(f"features.{feature.name}: logs.{name} has no column `{column.column}`{nearest}")
    return problems


if __name__ == "__main__":
    run_submitted("check", run)
