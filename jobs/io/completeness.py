"""Decide whether the logs of a day are complete, from file names, marker files and row counts, without Spark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import fsspec
import pyarrow.orc as orc
import pyarrow.parquet as pq

from star_ctr.conf.errors import UserError
from star_ctr.conf.settings.root import Settings
from star_ctr.conf.settings.sources import Log
from star_ctr.jobs.io.log_files import (
    LogFile,
    format_glob,
    join_path,
    list_files,
    list_log_days,
    list_patterns,
    make_glob,
    open_file_system,
)

_HOURS = [f"{hour:02d}" for hour in range(24)]
_CHUNK = 1 << 20


class SourceState(NamedTuple):
    """The files of one source of a log for a day.

    Attributes:
        log: The name of the log, and of its source if it has several: `impressions` or `impressions.web`.
        files: The number of files of the day; all files if the path contains no day.
        path: The glob, or the table of a catalog.
        missing: What is missing; empty if the source is complete.
    """

    log: str
    files: int
    path: str
    missing: str


def list_source_states(settings: Settings, ds: str, names: Sequence[str] | None = None) -> list[SourceState]:
    """Check the sources of logs for a day.

    Args:
        settings: The settings of the data set.
        ds: The day.
        names: The logs; all declared ones by default.

    Returns:
        One state per source. A table of a catalog counts as complete.

    Raises:
        UserError: The protocol of a path is not supported.
    """
    states = []
    for name in names or settings.logs.get_declared():
        log = settings.logs.get_declared()[name]
        try:
            found = list_files(settings, name)
        except (ValueError, ImportError) as error:
            raise UserError(f"logs.{name}.path: {make_glob(settings, log)} cannot be listed: {error}") from None
        for source_name, source in log.list_sources().items():
            title = f"{name}.{source_name}" if source_name else name
            if source.path is None:
                states.append(SourceState(title, 0, str(source.table), ""))
                continue
            files = [f for f in found if f.source == source_name and f.day in (None, ds)]
            path = join_path(settings, source.path)
            path = format_glob(path, ds) if source.has_day else path
            states.append(SourceState(title, len(files), path, _describe_missing(settings, source, ds, files)))
    return states


def find_newest_complete_day(settings: Settings, name: str) -> str | None:
    """Return the newest day in the paths of a log for which all of its sources are complete; None if there is none."""
    for day in reversed(list_log_days(settings, name)):
        if not any(state.missing for state in list_source_states(settings, day, [name])):
            return day
    return None


def _describe_missing(settings: Settings, source: Log, ds: str, files: list[LogFile]) -> str:
    """Return what a source lacks for a day; empty if it is complete."""
    if not files:
        return "no files"
    rule = source.complete
    if rule is None or not source.has_day:
        return ""
    if rule.marker and not _exists(settings, rule.marker, ds):
        return f"no file {format_glob(rule.marker, ds)}"
    if rule.hours:
        hours = {file.hour for file in files}
        if len(hours) < rule.hours:
            return f"{len(hours)} of {rule.hours} hours; no files for {', '.join(h for h in _HOURS if h not in hours)}"
    if rule.min_rows and (rows := sum(_count_rows(settings, source, f) for f in files)) < rule.min_rows:
        return f"{rows:,} of at least {rule.min_rows:,} rows"
    return ""


def _exists(settings: Settings, marker: str, ds: str) -> bool:
    for pattern in list_patterns(settings, marker):
        fs, path = fsspec.core.url_to_fs(format_glob(pattern, ds))
        fs.invalidate_cache()  # fsspec may have cached an earlier listing
        if fs.glob(path):
            return True
    return False


def _count_rows(settings: Settings, source: Log, file: LogFile) -> int:
    """Count the rows of a file; for text files the lines, without the header of a CSV file."""
    with open_file_system(settings, source).open(file.path, "rb", compression="infer") as handle:
        if source.format in ("parquet", "delta"):
            return int(pq.ParquetFile(handle).metadata.num_rows) if file.path.endswith(".parquet") else 0
        if source.format == "orc":
            return int(orc.ORCFile(handle).nrows)
        lines, last = 0, b"\n"
        while chunk := handle.read(_CHUNK):
            lines, last = lines + chunk.count(b"\n"), chunk[-1:]
        return max(lines + (last != b"\n") - (source.format == "csv"), 0)
