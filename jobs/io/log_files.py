"""List the files of the declared logs and hash the listing, to detect changed files.

This module does not use Spark, because staleness checks list the inputs of many nights and must not start a session.

A log's `path` may contain wildcards (`*`, `?`, `[0-9]`, `{a,b}`) and placeholders of the day and hour. Other folders,
such as `paths.logs`, may contain any character.
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
from star_ctr.conf.settings.logs import PLACEHOLDERS, Log
from star_ctr.conf.settings.root import Settings

UNWINDOWED_LOGS = ("users", "items", "behaviours")
"""Logs that are read from their first day on, because attributes and behaviours from before the window still apply."""
_TOKEN = re.compile(r"\{\w+\}|\*\*/?|\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)
"""A part of a glob: a placeholder, a wildcard or a single character."""


def make_glob(settings: Settings, log: Log) -> str:
    """Return the glob of a log's files for messages: below `paths.logs`, unless the path is absolute or a URL."""
    if log.path.startswith("/") or "://" in log.path:
        return log.path
    return f"{settings.paths.logs.rstrip('/')}/{log.path}"


def list_patterns(settings: Settings, log: Log) -> list[str]:
    """Return the globs of a log's files for fsspec, one per alternative of `{a,b}`, with placeholders."""
    root = make_glob(settings, log).removesuffix(log.path)
    escaped = re.sub(r"[*?\[{]", lambda match: f"[{match[0]}]", root)
    return [escaped + alternative for alternative in _expand_braces(log.path)]


def has_day_in_path(log: Log) -> bool:
    """Return whether the log's path contains the day of its files."""
    return log.has_day


def format_glob(glob: str, ds: str) -> str:
    """Return the glob of the files of one day."""
    year, month, day = ds.split("-")
    values = {"{ds}": ds, "{yyyymmdd}": ds.replace("-", ""), "{yyyy}": year, "{mm}": month, "{dd}": day}
    for mark, value in values.items():
        glob = glob.replace(mark, value)
    return widen_glob(glob)


def widen_glob(glob: str) -> str:
    """Return the glob of the files of all days."""
    for mark in PLACEHOLDERS:
        glob = glob.replace(mark, "*")
    return glob


def parse_day_from_path(pattern: str, file: str) -> str | None:
    """Parse the day in the path of a file.

    Args:
        pattern: The log's glob, from `list_patterns`.
        file: The path of the file.

    Returns:
        The day, for example 2022-05-05; None if the path does not match the glob.

    Raises:
        DataError: The path has digits at the position of the day, but they are not a date.
    """
    match = re.search(_translate(pattern) + "$", file)
    if match is None:
        return None
    found = match.groupdict()
    texts = [found[name] for name in ("ds", "yyyymmdd") if name in found]
    if "yyyy" in found:
        texts.append(f"{found['yyyy']}-{found['mm']}-{found['dd']}")
    try:
        days = {dt.date.fromisoformat(text).isoformat() for text in texts}
    except ValueError:
        raise DataError(
            f"{file}: `{texts[0]}` is not a date; rename the file, or move it out of {widen_glob(pattern)}"
        ) from None
    return days.pop() if len(days) == 1 else None


def _translate(pattern: str) -> str:
    """Translate a glob with placeholders to a regular expression with a group per placeholder."""
    parts, seen = [], set[str]()
    for token in _TOKEN.findall(pattern):
        if token in PLACEHOLDERS:
            name = token[1:-1]
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{PLACEHOLDERS[token]})")
            seen.add(name)
        elif token.startswith("**"):
            parts.append(".*")
        elif token == "*":
            parts.append("[^/]*")
        elif token == "?":
            parts.append("[^/]")
        elif len(token) > 2 and token.startswith("["):
            negated = token[1] == "!"
            inner = re.sub(r"([\\\[\]^&~|])", r"\\\1", token[2 if negated else 1 : -1])
            parts.append(f"[{'^' if negated else ''}{inner}]")
        else:
            parts.append(re.escape(token))
    return "".join(parts)


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
        base: The URL of the folder below which names of folders such as `hour=13` are partition columns; None if no
            folder has such a name.
    """

    day: str | None
    path: str
    size: int
    stamp: str
    url: str
    folder: str | None
    base: str | None


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
    found: dict[str, LogFile] = {}
    for pattern in list_patterns(settings, log):
        fs, marked = fsspec.core.url_to_fs(pattern)
        for path in fs.glob(widen_glob(marked)):
            day = parse_day_from_path(marked, path) if log.has_day else None
            if log.has_day and day is None:  # the wildcards in place of the day match other names too
                continue
            for file, info in list_readable_files(fs, path):
                stamp = info.get("mtime") or info.get("ETag") or info.get("LastModified") or info.get("created")
                folder = None if file == path else _make_url(glob, path)
                base = _find_partition_base(marked, path, file)
                found[file] = LogFile(
                    day, file, int(info["size"] or 0), str(stamp), _make_url(glob, file), folder,
                    _make_url(glob, base) if base else None,
                )  # fmt: skip
    return sorted(found.values(), key=lambda f: (f.day or "", f.path))


def _find_partition_base(pattern: str, path: str, file: str) -> str | None:
    """Return the folder above the first folder with a name such as `hour=13`; None if there is none.

    Args:
        pattern: The glob. Folders that it names without `=` do not count.
        path: The path that the glob matched.
        file: The file: `path`, or a file below it.
    """
    folders = file.split("/")[:-1]
    named = (k for k, part in enumerate(pattern.split("/")) if "=" in part)
    first = next(named, path.count("/") + 1)
    position = next((k for k in range(first, len(folders)) if re.match(r"\w+=", folders[k])), None)
    return "/".join(folders[:position]) if position is not None else None


def open_file_system(settings: Settings, log: Log) -> AbstractFileSystem:
    """Return the file system of a log's files."""
    return fsspec.core.url_to_fs(widen_glob(list_patterns(settings, log)[0]))[0]


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
