"""The files of the declared logs, listed without Spark: which there are, and whether they are still those of before.

What a step of the night would read is asked many times and for many nights; that must not cost a session.
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

REACH_BACK = ("users", "items", "behaviours")
"""Logs that are read from their first day on: older attributes and behaviours are still valid ones."""
DAY_MARKS = {"{ds}": r"(?P<ds>\d{4}-\d{2}-\d{2})", "{yyyymmdd}": r"(?P<ds>\d{8})"}


def make_glob(settings: Settings, log: Log) -> str:
    """The log's glob, below `paths.logs` unless it is absolute or a URL."""
    if log.path.startswith("/") or "://" in log.path:
        return log.path
    return f"{settings.paths.logs.rstrip('/')}/{log.path}"


def has_day_in_path(log: Log) -> bool:
    """Whether the log's path names the day of its files."""
    return any(mark in log.path for mark in DAY_MARKS)


def format_glob(glob: str, ds: str) -> str:
    """The glob of one day's files."""
    return glob.replace("{ds}", ds).replace("{yyyymmdd}", ds.replace("-", ""))


def widen_glob(glob: str) -> str:
    """A glob of the files of all days."""
    for mark in DAY_MARKS:
        glob = glob.replace(mark, "*")
    return glob


def parse_day(glob: str, file: str) -> str | None:
    """The day that a file's path tells, by the marks in the log's glob; None where it does not match.

    Raises:
        DataError: There are digits in the place of the day, but they are not a date.
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

    `day`: the day in the path, or None. `folder`: the URL of the folder that the glob matched and that contains this
    file; None if the glob matched the file itself. `url`: the URL of the file for Spark.
    """

    day: str | None
    path: str
    size: int
    stamp: str
    url: str
    folder: str | None


def list_files(settings: Settings, name: str) -> list[LogFile]:
    """List the files of a log, sorted by day and path, on any file system that fsspec supports.

    A folder that the glob matches stands for all files below it.
    """
    log = settings.logs.declared()[name]
    glob = make_glob(settings, log)
    fs, place = fsspec.core.url_to_fs(widen_glob(glob))
    marked = place if not has_day_in_path(log) else fsspec.core.url_to_fs(glob)[1]
    found = []
    for alternative in _expand_braces(place):
        for path in fs.glob(alternative):
            day = (
                next((d for m in _expand_braces(marked) if (d := parse_day(m, path))), None)
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
    """The files that Spark reads where a glob names a file or a folder: not what begins with `_` or `.`."""
    if path.rstrip("/").rsplit("/", 1)[-1].startswith(("_", ".")):
        return
    info = fs.info(path)
    if info["type"] != "directory":
        yield path, info
        return
    for inner in fs.ls(path, detail=False):
        yield from list_readable_files(fs, inner)


def list_days(settings: Settings, name: str) -> list[str]:
    """The days of which a log with a day in its path has files, oldest first."""
    return sorted({file.day for file in list_files(settings, name) if file.day})


def hash_files(found: Sequence[LogFile], since: str | None, until: str) -> str:
    """Hash of those files that have no day, or one from `since` (None: the first) to `until`."""
    wanted = [f for f in found if f.day is None or ((since is None or f.day >= since) and f.day <= until)]
    return f"{len(wanted)} files {hash_json([(f.day, f.path, f.size, f.stamp) for f in wanted])}"


def _expand_braces(glob: str) -> list[str]:
    """The globs that `{a,b}` in one stands for, as Spark reads it."""
    match = re.search(r"\{([^{}]*,[^{}]*)\}", glob)
    if match is None:
        return [glob]
    ends = (glob[: match.start()], glob[match.end() :])
    return [g for part in match[1].split(",") for g in _expand_braces(ends[0] + part + ends[1])]
