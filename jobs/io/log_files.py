"""List the files of the declared logs and hash the listing, to detect changed files.

This module does not use Spark, because staleness checks list the inputs of many nights and must not start a session.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import fsspec
from fsspec import AbstractFileSystem

from star_ctr.conf.contracts.fingerprint import hash_json
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.logs import Log
from star_ctr.conf.settings.root import Settings

UNWINDOWED_LOGS = ("users", "items", "behaviours")
"""Logs that are read from their first day on, because attributes and behaviours from before the window still apply."""
DAY_MARKS = {"{ds}": r"(?P<ds>\d{4}-\d{2}-\d{2})", "{yyyymmdd}": r"(?P<ds>\d{8})"}
"""Placeholders of the day in a log's path, and the regular expression that each of them matches."""


def make_glob(settings: Settings, log: Log) -> str:
    """Return the glob of a log's files: below `paths.logs`, unless the log's path is absolute or a URL."""
    if log.path.startswith("/") or "://" in log.path:
        return log.path
    return f"{settings.paths.logs.rstrip('/')}/{log.path}"


def has_day_in_path(log: Log) -> bool:
    """Return whether the log's path contains the day of its files."""
    return any(mark in log.path for mark in DAY_MARKS)


def format_glob(glob: str, ds: str) -> str:
    """Return the glob of the files of one day."""
    return glob.replace("{ds}", ds).replace("{yyyymmdd}", ds.replace("-", ""))


def widen_glob(glob: str) -> str:
    """Return the glob of the files of all days."""
    for mark in DAY_MARKS:
        glob = glob.replace(mark, "*")
    return glob


def parse_day_from_path(glob: str, file: str) -> str | None:
    """Parse the day in the path of a file.

    Args:
        glob: The log's glob, with one or more of DAY_MARKS.
        file: The path of the file.

    Returns:
        The day, for example 2022-05-05; None if the path does not match the glob.

    Raises:
        DataError: The path has digits at the position of the day, but they are not a date.
    """
    pattern = re.escape(glob).replace(r"\*", "[^/]*")
    for mark, group in DAY_MARKS.items():
        pattern = pattern.replace(re.escape(mark), group, 1).replace(re.escape(mark), "[0-9-]+")
    match = re.search(pattern + "$", file)
    if match is None:
        return None
    text = match["ds"]
    try:
        return dt.date.fromisoformat(text).isoformat()
    except ValueError:
        raise DataError(f"{file}: `{text}` is not a date; rename the file, or move it out of {glob}") from None


class LogFile(NamedTuple):
    """A file of a log.

    Attributes:
        day: The day in the path; None if the log's path contains no day.
        path: The path of the file for fsspec.
        size: The size in bytes.
        stamp: The modification time or ETag of the file.
        url: The URL of the file for Spark.
        folder: The URL of the folder that the glob matched and that contains this file; None if the glob matched the
            file itself.
    """

    day: str | None
    path: str
    size: int
    stamp: str
    url: str
    folder: str | None


def list_files(settings: Settings, name: str) -> list[LogFile]:
    """List the files of a log on any file system that fsspec supports.

    If the glob matches a folder, all files below the folder are included.

    Args:
        settings: The settings of the data set.
        name: The log.

    Returns:
        The files, sorted by day and path.

    Raises:
        DataError: The day in the path of a file is not a date.
    """
    log = settings.logs.get_declared()[name]
    glob = make_glob(settings, log)
    fs, pattern = fsspec.core.url_to_fs(widen_glob(glob))
    marked = pattern if not has_day_in_path(log) else fsspec.core.url_to_fs(glob)[1]
    found = []
    for alternative in _expand_braces(pattern):
        for path in fs.glob(alternative):
            day = (
                next((d for m in _expand_braces(marked) if (d := parse_day_from_path(m, path))), None)
                if has_day_in_path(log)
                else None
            )
            for file, info in list_readable_files(fs, path):
                stamp = info.get("mtime") or info.get("ETag") or info.get("LastModified") or info.get("created")
                folder = None if file == path else _make_url(glob, path)
                found.append(LogFile(day, file, int(info["size"] or 0), str(stamp), _make_url(glob, file), folder))
    return sorted(found, key=lambda f: (f.day or "", f.path))


def open_file_system(settings: Settings, log: Log) -> AbstractFileSystem:
    """Return the file system of a log's files."""
    return fsspec.core.url_to_fs(widen_glob(make_glob(settings, log)))[0]


def _make_url(glob: str, path: str) -> str:
    """Convert an fsspec path to a URL for Spark, with the scheme and host of the log's glob."""
    scheme, host, *_ = urlsplit(glob)
    if "://" not in glob:
        return path
    if path.startswith("/"):
        return f"{scheme}://{host}{path}"
    return f"{scheme}://{host}/{path.partition('/')[2]}" if "@" in host else f"{scheme}://{path}"


def list_readable_files(fs: AbstractFileSystem, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the files that Spark reads for a path: the file itself, or all files in the folder.

    Names that begin with `_` or `.` are skipped, as Spark does.

    Args:
        fs: The file system.
        path: The path of a file or folder.

    Yields:
        The path and the fsspec info of each file.
    """
    if path.rstrip("/").rsplit("/", 1)[-1].startswith(("_", ".")):
        return
    info = fs.info(path)
    if info["type"] != "directory":
        yield path, info
        return
    for inner in fs.ls(path, detail=False):
        yield from list_readable_files(fs, inner)


def list_log_days(settings: Settings, name: str) -> list[str]:
    """Return the days for which a log has files, oldest first; empty if the log's path contains no day."""
    return sorted({file.day for file in list_files(settings, name) if file.day})


def hash_files(found: Sequence[LogFile], since: str | None, until: str) -> str:
    """Hash the listing of the files of some days: their days, paths, sizes and modification times.

    Args:
        found: The files of a log.
        since: The first day; None for no limit.
        until: The last day. Files without a day are always included.

    Returns:
        The number of files and the hash, as text.
    """
    wanted = [f for f in found if f.day is None or ((since is None or f.day >= since) and f.day <= until)]
    return f"{len(wanted)} files {hash_json([(f.day, f.path, f.size, f.stamp) for f in wanted])}"


def _expand_braces(glob: str) -> list[str]:
    """Expand `{a,b}` in a glob into one glob per alternative, as Spark does."""
    match = re.search(r"\{([^{}]*,[^{}]*)\}", glob)
    if match is None:
        return [glob]
    ends = (glob[: match.start()], glob[match.end() :])
    return [g for part in match[1].split(",") for g in _expand_braces(ends[0] + part + ends[1])]
