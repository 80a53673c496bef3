"""List the files of the declared logs and hash the listing, to detect changed files.

This module does not use Spark, because staleness checks list the inputs of many nights and must not start a session.

A log's `path` may contain wildcards (`*`, `?`, `[0-9]`, `{a,b}`) and placeholders of the day and hour. Other folders,
such as `paths.logs`, may contain any character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import fsspec
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from fsspec import AbstractFileSystem

from star_ctr.conf.contracts.fingerprint import hash_json
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.conf.settings.sources import Log
from star_ctr.jobs.io.path_patterns import expand_braces, is_hidden, is_in_hidden_folder, parse_path, widen_glob

UNWINDOWED_LOGS = ("users", "items", "behaviours")
"""Logs that are read from their first day on, because attributes and behaviours from before the window still apply."""
_STAMPS = ("mtime", "ETag", "etag", "LastModified", "last_modified", "modificationTime", "updated", "created")
"""Keys under which the file systems of fsspec store the version or the modification time of a file."""


def make_glob(settings: Settings, log: Log) -> str:
    """Return the globs or tables of a log's sources, for messages."""
    return ", ".join(source.table or join_path(settings, str(source.path)) for source in log.list_sources().values())


def describe_no_files(settings: Settings, name: str) -> str:
    """Return the message for a log without any file."""
    log = settings.logs.get_declared()[name]
    which = f"{make_glob(settings, log)} for any day" if log.has_day else make_glob(settings, log)
    remedy = f"check paths.logs ({settings.paths.logs})"
    if settings.simulate is not None:
        remedy += ", or generate logs with `star-ctr simulate`"
    return f"logs.{name}.{'sources' if log.sources else 'path'}: no file matches {which}; {remedy}"


def join_path(settings: Settings, path: str) -> str:
    """Return a path below `paths.logs`, unless it is absolute or a URL."""
    return path if path.startswith("/") or "://" in path else f"{settings.paths.logs.rstrip('/')}/{path}"


def list_patterns(settings: Settings, path: str) -> list[str]:
    """Return the globs of a `path` for fsspec, one per alternative of `{a,b}`, with placeholders."""
    root = join_path(settings, path).removesuffix(path)
    escaped = re.sub(r"[*?\[{]", lambda match: f"[{match[0]}]", root)
    return [escaped + alternative for alternative in expand_braces(path)]


class LogFile(NamedTuple):
    """A file of a log, or a Delta table.

    Attributes:
        source: The name of its source; empty if the log has no `sources`.
        day: The day in the path; None if the source's path contains no day.
        hour: The hour in the path; None if the path contains none.
        path: The path of the file for fsspec.
        size: The size in bytes.
        stamp: The modification time or ETag of the file, or the version of the Delta table.
        url: The URL of the file for Spark.
        base: The URL of the folder below which names of folders such as `hour=13` are partition columns; None if no
            folder has such a name.
    """

    source: str
    day: str | None
    hour: str | None
    path: str
    size: int
    stamp: str
    url: str
    base: str | None


def list_files(settings: Settings, name: str) -> list[LogFile]:
    """List the files of a log on any file system that fsspec supports; tables of catalogs have none.

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
    found: dict[tuple[str, str], LogFile] = {}
    for source_name, source in log.list_sources().items():
        if source.path is None:
            continue
        glob = join_path(settings, source.path)
        for pattern in list_patterns(settings, source.path):
            fs, marked = fsspec.core.url_to_fs(pattern, use_listings_cache=False)
            for path in fs.glob(widen_glob(marked)):
                parsed = parse_path(marked, path) if source.has_day else (None, None)
                # The wildcards in place of the day match other names too.
                if parsed is None or is_in_hidden_folder(marked, path):
                    continue
                if source.format == "delta":
                    table = _describe_delta_table(_make_url(glob, path), path)
                    found[source_name, path] = table._replace(source=source_name, day=parsed[0], hour=parsed[1])
                    continue
                for file, info in list_readable_files(fs, path):
                    stamp = next((info[key] for key in _STAMPS if info.get(key)), None) or fs.ukey(file)
                    base = _find_partition_base(marked, source.path.count("/"), path, file)
                    found[source_name, file] = LogFile(
                        source_name, parsed[0], parsed[1], file, int(info["size"] or 0), str(stamp),
                        _make_url(glob, file), _make_url(glob, base) if base else None,
                    )  # fmt: skip
    return sorted(found.values(), key=lambda f: (f.day or "", f.source, f.path))


def _describe_delta_table(url: str, path: str) -> LogFile:
    """Describe the newest version of a Delta table as one file; raises `DataError` if it cannot be read."""
    # Do not list its files, because they remain in the folder when their rows are deleted.
    try:
        table = DeltaTable(url)
        size = sum(table.get_add_actions(flatten=True)["size_bytes"].to_pylist())
    except TableNotFoundError:
        raise DataError(f"{path}: not a Delta table; set `format` of the log, or correct its `path`") from None
    except (DeltaError, OSError) as error:
        raise DataError(f"{path}: cannot be read as delta: {str(error).splitlines()[0]}") from None
    # A table that is written again has the same versions, but another id.
    stamp = f"version {table.version()} of {table.metadata().id}"
    return LogFile("", None, None, path, size, stamp, url, None)


def _find_partition_base(pattern: str, depth: int, path: str, file: str) -> str | None:
    """Return the folder above the first folder with a name such as `hour=13`; None if there is none.

    Args:
        pattern: The glob. Folders that it names without `=` do not count.
        depth: Number of slashes of the log's `path`. Folders above it do not count.
        path: The path that the glob matched.
        file: The file: `path`, or a file below it.
    """
    folders = file.split("/")[:-1]
    parts = pattern.split("/")
    named = (k for k in range(max(len(parts) - depth - 1, 0), len(parts)) if "=" in parts[k])
    first = next(named, path.count("/") + 1)
    position = next((k for k in range(first, len(folders)) if re.match(r"\w+=", folders[k])), None)
    return "/".join(folders[:position]) if position is not None else None


def open_file_system(settings: Settings, source: Log) -> AbstractFileSystem:
    """Return the file system of a source's files."""
    pattern = widen_glob(list_patterns(settings, str(source.path))[0])
    return fsspec.core.url_to_fs(pattern, use_listings_cache=False)[0]


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

    Names that begin with `_` or `.` are skipped, as Spark does, but not partition folders such as `_hour=13`.

    Args:
        fs: The file system.
        path: The path of a file or folder.

    Yields:
        The path and the fsspec info of each file.
    """
    if is_hidden(path.rstrip("/").rsplit("/", 1)[-1]):
        return
    info = fs.info(path)
    if info["type"] != "directory":
        yield path, info
        return
    # An object store may list a folder itself, as an empty object that marks it.
    for inner in (inner for inner in fs.ls(path, detail=False) if inner.rstrip("/") != path.rstrip("/")):
        yield from list_readable_files(fs, inner)


def list_log_days(settings: Settings, name: str) -> list[str]:
    """Return the days for which each source of a log has files, oldest first; empty if no path contains the day."""
    days: dict[str, set[str]] = {}
    dated = [n for n, source in settings.logs.get_declared()[name].list_sources().items() if source.has_day]
    for file in list_files(settings, name):
        if file.day:
            days.setdefault(file.source, set()).add(file.day)
    return sorted(set.intersection(*(days.get(n, set()) for n in dated))) if dated else []


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
