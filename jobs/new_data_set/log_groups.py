"""Find the logs in a folder: groups of files with the same name pattern."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from typing import NamedTuple

import fsspec
from fsspec import AbstractFileSystem

from star_ctr.conf.errors import UserError
from star_ctr.jobs.io.path_patterns import is_hidden, widen_glob

_FORMATS = {
    "csv": "csv", "tsv": "csv", "txt": "csv", "json": "json", "jsonl": "json", "ndjson": "json", "parquet": "parquet",
    "pq": "parquet", "orc": "orc", "avro": "avro",
}  # fmt: skip
"""The format of files by the end of their name."""
_COMPRESSED = (".gz", ".bz2", ".zst", ".snappy", ".lz4")
_DAYS = [
    (re.compile(r"\d{4}-\d{2}-\d{2}"), "{ds}"),
    (re.compile(r"(?<!\d)\d{4}/\d{2}/\d{2}(?!\d)"), "{yyyy}/{mm}/{dd}"),
    (re.compile(r"(?<!\w)(year|y)=\d{4}/(month|m)=\d{2}/(day|d)=\d{2}(?!\d)"), r"\1={yyyy}/\2={mm}/\3={dd}"),
    (re.compile(r"(?<!\d)\d{8}(?!\d)"), "{yyyymmdd}"),
]
"""Ways to write the day in a path, and the placeholders that stand for them."""
_PLACEHOLDER = re.compile(r"\{\w+\}")
_HOUR = re.compile(r"(?<=\}/)((?:hour|hr|hh|h)=)?(?:[01]\d|2[0-3])(?=/)")
"""An hour is the folder after that of the day."""
_MAX_DEPTH = 12
_NUMBER = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d+")


class GroupFile(NamedTuple):
    """A file, or the folder of a Delta table.

    Attributes:
        path: The path for the file system.
        day: The day in the path; None if it contains none.
        size: The size in bytes; 0 for a Delta table.
    """

    path: str
    day: str | None
    size: int


class LogGroup(NamedTuple):
    """Files with the same name pattern.

    Attributes:
        pattern: The glob below the folder of the logs, with placeholders of the day and hour.
        format: The format of the files.
        files: The files, oldest day first.
    """

    pattern: str
    format: str
    files: list[GroupFile]

    @property
    def days(self) -> list[str]:
        """The days in the paths, oldest first; empty if the pattern contains no day."""
        return sorted({f.day for f in self.files if f.day}) if _PLACEHOLDER.search(self.pattern) else []

    @property
    def size(self) -> int:
        """The size of all files in bytes."""
        return sum(file.size for file in self.files)


def find_groups(folder: str) -> tuple[AbstractFileSystem, list[LogGroup], list[str]]:
    """Find the logs in a folder.

    Args:
        folder: The folder, or its URL.

    Returns:
        The file system, the logs, and the paths of files whose format is not known.

    Raises:
        UserError: There is no such folder, or it has no files of a known format.
    """
    fs, root = fsspec.core.url_to_fs(folder, use_listings_cache=False)
    root = root.rstrip("/")
    if not fs.isdir(root):
        raise UserError(f"--logs {folder}: no such folder")
    found: dict[tuple[str, str], list[GroupFile]] = {}
    unknown = []
    for path, size in _list_files(fs, root):
        name = path[len(root) + 1 :]
        kind = "delta" if size is None else _get_format(name)
        if kind is None:
            unknown.append(name)
            continue
        pattern, day = make_pattern(name)
        found.setdefault((pattern, kind), []).append(GroupFile(path, day, size or 0))
    groups = [_drop_single_day(LogGroup(pattern, kind, files)) for (pattern, kind), files in sorted(found.items())]
    if not groups:
        known = ", ".join(f".{name}" for name in _FORMATS)
        raise UserError(f"--logs {folder}: no log files; expected {known}, or a Delta table")
    return fs, groups, unknown


def _list_files(fs: AbstractFileSystem, root: str, depth: int = 0) -> Iterator[tuple[str, int | None]]:
    """Yield the path and size of each file below a folder; the size of the folder of a Delta table is None."""
    entries = fs.ls(root, detail=True)
    if any(entry["name"].rstrip("/").endswith("/_delta_log") for entry in entries):
        yield root, None
        return
    if depth > _MAX_DEPTH:  # a link to a folder above it
        return
    for entry in sorted(entries, key=lambda entry: entry["name"]):
        path = entry["name"].rstrip("/")
        if path == root or is_hidden(path.rsplit("/", 1)[-1]):
            continue
        if entry["type"] == "directory" or (entry.get("islink") and fs.isdir(path)):
            yield from _list_files(fs, path, depth + 1)
        elif size := fs.size(path) if entry.get("islink") else entry["size"]:
            yield path, int(size)


def _get_format(path: str) -> str | None:
    """Return the format of a file by its name; None if it is not known."""
    _, ending = _split_ending(path.rsplit("/", 1)[-1])
    # The compression comes before the format or after it: part-0.snappy.parquet, part-0.csv.gz.
    parts = (part.lower() for part in ending.split("."))
    return next((_FORMATS[part] for part in parts if part in _FORMATS), None)


def _split_ending(name: str) -> tuple[str, str]:
    """Split a file name into its stem and its ending: the format, and how it is compressed."""
    stem, ending = name, ""
    for _ in range(2):
        rest, dot, last = stem.rpartition(".")
        if dot and (f".{last.lower()}" in _COMPRESSED or last.lower() in _FORMATS):
            stem, ending = rest, f".{last}{ending}"
    is_known = any(part.lower() in _FORMATS for part in ending.split("."))
    return (stem, ending) if is_known else (name, "")


def make_pattern(path: str) -> tuple[str, str | None]:
    """Make the pattern of a path: placeholders in place of its day and hour, and `*` in place of other numbers.

    Args:
        path: The path below the folder of the logs.

    Returns:
        The pattern, and the day; None if the path contains no day, or several.
    """
    found = [
        (match.start(), day)
        for expression, _ in _DAYS
        for match in expression.finditer(path)
        if (day := _parse_day(match[0]))
    ]
    days = {day for _, day in found}
    folder_days = {day for start, day in found if "/" in path[start:]}
    # A file in the folder of a day may be named after the day on which it was written.
    day = next(iter(days if len(days) == 1 else folder_days)) if 1 in (len(days), len(folder_days)) else None
    pattern = path
    if day is not None:
        for expression, placeholder in _DAYS:
            pattern = _replace_day(pattern, expression, placeholder, day)
        pattern = _HOUR.sub(lambda match: f"{match[1] or ''}{{hh}}", pattern)
    *folders, name = pattern.split("/")
    folders = [re.sub(r"=(?!\{).*", "=*", folder) for folder in folders]
    return "/".join([*folders, _replace_numbers(name)]), day


def _replace_day(pattern: str, expression: re.Pattern[str], placeholder: str, day: str) -> str:
    def replace(match: re.Match[str]) -> str:
        return match.expand(placeholder) if _parse_day(match[0]) == day else match[0]

    return expression.sub(replace, pattern)


def _parse_day(text: str) -> str | None:
    """Return a day in a path as text such as 2022-05-05; None if it is not a plausible date."""
    digits = re.sub(r"\D", "", text)
    try:
        day = dt.date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
    except ValueError:
        return None
    return day.isoformat() if 2000 <= day.year < 2100 else None


def _replace_numbers(name: str) -> str:
    """Replace the numbers in a file name by `*`, but not those in placeholders and in the ending."""
    stem, ending = _split_ending(name)
    parts = re.split(r"(\{\w+\})", stem)
    replaced = "".join(part if _PLACEHOLDER.fullmatch(part) else _NUMBER.sub("*", part) for part in parts)
    # Numbers side by side, as in `part-00000-<uuid>-c000`, become one wildcard.
    return re.sub(r"\*(?:[-_.]?c?\*)+", "*", replaced) + ending


def _drop_single_day(group: LogGroup) -> LogGroup:
    """Replace the placeholders of a group with `*` if all of its files are of one day: the day is then only a name."""
    if len({f.day for f in group.files}) > 1 or group.files[0].day is None:
        return group
    return group._replace(pattern=widen_glob(group.pattern), files=[f._replace(day=None) for f in group.files])
