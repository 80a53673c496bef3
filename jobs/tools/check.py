"""Check: read the schemas of all log files and a sample of the newest rows, and report problems before a night runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pyspark.sql import SparkSession

from star_ctr.conf.contracts.dates import check_day
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.features.cleaning.log_columns import find_missing_columns
from star_ctr.jobs.io.external_errors import describe_external_error
from star_ctr.jobs.io.file_schemas import EMPTY, FileSchema, find_unreadable
from star_ctr.jobs.io.log_files import LogFile, describe_no_files, list_files, list_log_days, make_glob
from star_ctr.jobs.io.session import SPARK_ERRORS, run_submitted
from star_ctr.jobs.quality.sample import Sample, collect_sample
from star_ctr.jobs.quality.sample_matches import compute_click_rates, describe_matches
from star_ctr.jobs.quality.sample_report import LogReport, describe_sample

_MAX_FILES = 3
"""Number of unreadable files that are named."""


def run(settings: Settings, spark: SparkSession, ds: str | None = None, full: bool = False) -> list[dict[str, Any]]:
    """Check the files and a sample of the rows of each declared log.

    Args:
        settings: The data set.
        spark: The session.
        ds: The newest day to sample; by default, the newest day of each log.
        full: Whether to read all rows instead of a sample.

    Returns:
        One entry per log with the attributes of `LogReport`.
    """
    ds = check_day(ds) if ds else None
    reports: dict[str, LogReport] = {}
    samples: dict[str, Sample] = {}
    for name, log in settings.logs.get_declared().items():
        report = reports[name] = LogReport(name, make_glob(settings, log))
        try:
            if sample := _check_log(settings, spark, name, report, ds, full):
                samples[name] = sample
        except DataError as error:
            lines = [line for line in str(error).split("\n") if line not in report.problems]
            # The list of existing columns belongs to the line before it.
            report.problems += [line for line in lines if not line.startswith("(")]
        except SPARK_ERRORS as error:
            report.problems.append(f"logs.{name}: {describe_external_error(error)}")
    for name, problems, warnings in describe_matches(settings, samples):
        reports[name].problems += problems
        reports[name].warnings += warnings
    rates = compute_click_rates(settings, samples)
    for row in reports["impressions"].domains:
        row["click rate"] = rates.get(row["domain"], row["click rate"])
    return [asdict(report) for report in reports.values()]


def _check_log(
    settings: Settings, spark: SparkSession, name: str, report: LogReport, ds: str | None, full: bool
) -> Sample | None:
    """Check a log, fill its report, and return its sample; None if no file can be read."""
    log = settings.logs.get_declared()[name]
    files = list_files(settings, name)
    report.files = len(files)
    is_listed = any(source.path is not None for source in log.list_sources().values())
    if is_listed and not files:
        raise DataError(describe_no_files(settings, name))
    for source_name, source in log.list_sources().items():
        own = [f for f in files if f.source == source_name]
        if source.path is None or source.format == "delta":
            continue
        found = find_unreadable(settings, source, own)
        report.problems += [problem for problem, _ in found.unreadable[:_MAX_FILES]]
        if len(found.unreadable) > _MAX_FILES:
            report.problems.append(f"files that cannot be read, besides these: {len(found.unreadable) - _MAX_FILES}")
        report.warnings += _describe_schema_changes(own, found.schemas)
        files = [f for f in files if f.path not in {path for _, path in found.unreadable}]
    if log.has_day:
        report.warnings += _describe_days(settings, name, ds)
    if is_listed and not files:
        return None
    sample = collect_sample(settings, spark, name, files, ds, full)
    report.problems += find_missing_columns(settings, name, sample.types)
    describe_sample(settings, name, sample, report, has_all_files=len(files) == report.files)
    newest = ds or max((f.day for f in files if f.day), default=None)
    if name == "impressions" and newest and newest not in sample.rows["ds"].to_pylist():
        remedy = "write the logs of this day again, or pass another --ds"
        report.problems.append(f"the files of {newest} have no rows; {remedy}")
    return sample


def _describe_days(settings: Settings, name: str, ds: str | None) -> list[str]:
    """Return a warning if a log has fewer days than the training window."""
    days = list_log_days(settings, name)
    newest = ds or (days[-1] if days else None)
    earlier = [day for day in days if newest and day < newest]
    if name != "impressions" or len(earlier) >= settings.window.days:
        return []
    return [
        f"days with files before {newest}: {len(earlier)}, but window.days is {settings.window.days}; the night of "
        f"{newest} trains on these days only"
    ]


def _describe_schema_changes(files: Sequence[LogFile], schemas: Sequence[FileSchema | None]) -> list[str]:
    """Return a warning for each file whose columns differ from those of the previous file."""
    known: set[str] | None = None
    lines: list[str] = []
    for file, schema in zip(files, schemas, strict=True):
        if schema is None or schema is EMPTY or schema.columns is None or isinstance(schema.columns, str):
            continue
        names = set(schema.columns if isinstance(schema.columns, tuple) else schema.columns.names)
        if known is not None and names != known:
            new, gone = sorted(names - known), sorted(known - names)
            parts = [f"new columns {', '.join(f'`{c}`' for c in new)}"] if new else []
            parts += [f"missing columns {', '.join(f'`{c}`' for c in gone)}"] if gone else []
            lines.append(f"{file.path}: {'; '.join(parts)} (compared with the previous file)")
        known = names
    return lines[-_MAX_FILES:]


def _declare(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the job to the parser of spark-submit."""
    parser.add_argument("--ds", default=None, help="the newest day to check, for example 2022-05-05")
    parser.add_argument("--full", action="store_true", help="read all rows instead of a sample")


if __name__ == "__main__":
    run_submitted("check", run, _declare)
