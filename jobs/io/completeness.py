"""Decide whether the logs of a day are complete, from file names, marker files and row counts, without Spark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import fsspec
import pyarrow.orc as orc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from star_ctr.conf.errors import UserError
from star_ctr.conf.settings.root import Settings
from star_ctr.conf.settings.sources import Completeness, Log
from star_ctr.jobs.io import avro
from star_ctr.jobs.io.log_files import (
    LogFile,
    join_path,
    list_files,
    list_log_days,
    list_patterns,
    make_glob,
    open_file_system,
)
from star_ctr.jobs.io.path_patterns import format_glob

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
    listings = _list_all_files(settings, settings.logs.get_declared() if names is None else names)
    return list(_iter_states(settings, ds, listings))


def _list_all_files(settings: Settings, names: Iterable[str]) -> dict[str, list[LogFile]]:
    """List the files of several logs, of all days; raises `UserError` if the protocol of a path is not supported."""
    found = {}
    for name in names:
        try:
            found[name] = list_files(settings, name)
        except (ValueError, ImportError) as error:
            glob = make_glob(settings, settings.logs.get_declared()[name])
            raise UserError(f"logs.{name}.path: {glob} cannot be listed: {error}") from None
    return found


def _iter_states(settings: Settings, ds: str, listings: Mapping[str, list[LogFile]]) -> Iterator[SourceState]:
    """Yield the state of each source for a day, from the files of its log."""
    for name, found in listings.items():
        for source_name, source in settings.logs.get_declared()[name].list_sources().items():
            title = f"{name}.{source_name}" if source_name else name
            if source.path is None:
                yield SourceState(title, 0, str(source.table), "")
                continue
            files = [f for f in found if f.source == source_name and f.day in (None, ds)]
            path = join_path(settings, source.path)
            path = format_glob(path, ds) if source.has_day else path
            yield SourceState(title, len(files), path, _describe_missing(settings, source, ds, files))


def find_newest_complete_day(settings: Settings) -> str | None:
    """Return the newest day in the paths of the impression log that is complete; None if there is none."""
    days = list_log_days(settings, "impressions")[::-1]
    incomplete = find_incomplete_sources(settings, days)
    return next((day for day, source in zip(days, incomplete, strict=True) if source is None), None)


def find_incomplete_sources(settings: Settings, days: Iterable[str]) -> Iterator[SourceState | None]:
    """Find sources without which a night cannot run.

    Args:
        settings: The settings of the data set.
        days: The days. All of them share one listing of the files.

    Yields:
        For each day, a source of an impression log with days in its path, or of a log with a rule `complete`, that
        lacks something for the day; None if there is none. Other logs may have no files: snapshots, for example, need
        not exist for each day.
    """
    names = [
        name
        for name, log in settings.logs.get_declared().items()
        if (name == "impressions" and log.has_day) or any(source.complete for source in log.list_sources().values())
    ]
    listings = _list_all_files(settings, names)
    for ds in days:
        yield next((state for state in _iter_states(settings, ds, listings) if state.missing), None)


def _describe_missing(settings: Settings, source: Log, ds: str, files: list[LogFile]) -> str:
    """Return what a source lacks for a day; empty if it is complete."""
    if not files:
        return "no files"
    rule = source.complete
    if rule is None or not source.has_day:
        return ""
    if rule.marker and (missing := _find_missing_marker(settings, rule, ds)):
        return f"no file {missing}"
    if rule.hours:
        hours = {f.hour for f in files if f.size or source.format not in ("csv", "json")} & {*_HOURS}
        if len(hours) < rule.hours:
            return f"{len(hours)} of {rule.hours} hours; no files for {', '.join(h for h in _HOURS if h not in hours)}"
    if rule.min_rows and (rows := sum(_count_rows(settings, source, f) for f in files)) < rule.min_rows:
        return f"only {rows:,} rows; min_rows is {rule.min_rows:,}"
    return ""


def _find_missing_marker(settings: Settings, rule: Completeness, ds: str) -> str | None:
    """Return the path of a marker that does not exist; with `{hh}` in the path, one per hour is needed."""
    marker = str(rule.marker)
    if "{hh}" not in marker:
        return None if _exists(settings, marker, ds) else format_glob(marker, ds)
    missing = [path for hour in _HOURS if not _exists(settings, path := marker.replace("{hh}", hour), ds)]
    return format_glob(missing[0], ds) if len(_HOURS) - len(missing) < (rule.hours or len(_HOURS)) else None


def _exists(settings: Settings, marker: str, ds: str) -> bool:
    for pattern in list_patterns(settings, marker):
        fs, path = fsspec.core.url_to_fs(format_glob(pattern, ds), use_listings_cache=False)
        if fs.glob(path):
            return True
    return False


def _count_rows(settings: Settings, source: Log, file: LogFile) -> int:
    """Count the rows of a file; for text files the lines, without the header of a CSV file."""
    if source.format == "delta":
        return sum(DeltaTable(file.url).get_add_actions(flatten=True)["num_records"].to_pylist())
    with open_file_system(settings, source).open(file.path, "rb", compression="infer") as handle:
        if source.format == "parquet":
            return int(pq.ParquetFile(handle).metadata.num_rows)
        if source.format == "orc":
            return int(orc.ORCFile(handle).nrows)
        if source.format == "avro":
            return avro.count_rows(handle)
        lines, last = 0, b"\n"
        while chunk := handle.read(_CHUNK):
            lines, last = lines + chunk.count(b"\n"), chunk[-1:]
        return max(lines + (last != b"\n") - (source.format == "csv"), 0)
