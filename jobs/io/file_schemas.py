"""Read the schemas of log files, from the header of a CSV file or the footer of a Parquet file, for example.

Spark reports most problems of a file with a long traceback, or reads the file as something else. Files that cannot be
read are therefore recognized here, before Spark starts to read them.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.conf.settings.sources import Log
from star_ctr.features.cleaning.log_columns import find_separator
from star_ctr.jobs.io import avro
from star_ctr.jobs.io.external_errors import describe_known_problem
from star_ctr.jobs.io.log_files import LogFile, open_file_system

_HEAD_BYTES = 1 << 20
"""Number of bytes to read of a CSV or JSON file."""
_AT_ONCE = 16
"""Number of files to read concurrently, to hide the latency of object stores."""
_UNSUPPORTED_SUFFIXES = (".zip", ".xz", ".7z", ".rar", ".tar", ".tgz", ".z", ".zst")
_ARCHIVES = {b"PK\x03\x04": "zip", b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7z"}
"""Compression formats that Spark cannot read, by the first bytes of a file."""
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


# A quoted value may be as long as the text that is read; the default limit is 128 KiB.
csv.field_size_limit(_HEAD_BYTES)


class FileSchema(NamedTuple):
    """The schema of a file.

    Attributes:
        columns: The column names of a CSV file, the Arrow schema of a Parquet or ORC file, the JSON schema of an Avro
            file; None for JSON files.
        multiline: Whether quoted values of a CSV file contain line breaks.
    """

    columns: Any
    multiline: bool = False


EMPTY = FileSchema("empty")
"""The schema of a file without rows: a text file without a character, or an empty Parquet file."""


class FileSchemas(NamedTuple):
    """The schemas of files.

    Attributes:
        schemas: The schema of each file; None for a file that cannot be read.
        unreadable: A message and the path for each file that cannot be read.
    """

    schemas: list[FileSchema | None]
    unreadable: list[tuple[str, str]]


def find_unreadable(settings: Settings, log: Log, files: Sequence[LogFile]) -> FileSchemas:
    """Read the schemas of files, and collect the files that cannot be read."""
    fs = open_file_system(settings, log)

    def read_schema(file: LogFile) -> FileSchema | DataError:
        try:
            return _read_schema(fs, log, file)
        except DataError as error:
            return error

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = list(pool.map(read_schema, files))
    return FileSchemas(
        [None if isinstance(schema, DataError) else schema for schema in found],
        [(str(s), f.path) for s, f in zip(found, files, strict=True) if isinstance(s, DataError)],
    )


def read_schemas(fs: AbstractFileSystem, log: Log, files: Sequence[LogFile]) -> Iterator[FileSchema]:
    """Yield the schema of each file.

    Args:
        fs: The file system of the files.
        log: The log.
        files: The files.

    Raises:
        DataError: A file cannot be read in the declared format.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield from pool.map(lambda file: _read_schema(fs, log, file), files)


def _read_schema(fs: AbstractFileSystem, log: Log, file: LogFile) -> FileSchema:
    """Read the schema of a file; raises `DataError` if the file cannot be read."""
    try:
        match log.format:
            case "parquet":
                return _read_footer(fs, file)
            case "orc":
                with fs.open(file.path, "rb") as handle:
                    footer = orc.ORCFile(handle)
                    return FileSchema(footer.schema) if footer.nrows else EMPTY
            case "avro":
                with fs.open(file.path, "rb") as handle:
                    return FileSchema(avro.read_schema(handle))
            case "csv" | "json":
                return _parse_head(log, file, *_read_head(fs, file))
        return FileSchema(None)
    except (OSError, EOFError, ValueError, IndexError, zlib.error, csv.Error, pa.ArrowException) as error:
        if known := describe_known_problem(f"{type(error).__name__}: {error}", file.path):
            raise DataError(known) from None
        reason = str(error).splitlines()[0]
        remedy = "check the file, or set `format` of the log"
        raise DataError(f"{file.path}: cannot be read as {log.format}: {reason}; {remedy}") from None


def _read_footer(fs: AbstractFileSystem, file: LogFile) -> FileSchema:
    """Read the schema of a Parquet file."""
    with fs.open(file.path, "rb") as handle:
        footer = pq.ParquetFile(handle)
        schema = footer.schema_arrow.remove_metadata()
        names = [name.lower() for name in schema.names]
        if repeated := sorted({name for name in schema.names if names.count(name.lower()) > 1}):
            raise DataError(_describe_repeated(file.path, repeated))
        return FileSchema(schema) if footer.metadata.num_rows else EMPTY


def _read_head(fs: AbstractFileSystem, file: LogFile) -> tuple[bytes, bool]:
    """Read the first bytes of a file, decompressed; return them and whether they are the whole file."""
    if file.path.lower().endswith(_UNSUPPORTED_SUFFIXES):
        suffix = file.path.rpartition(".")[2]
        raise DataError(f"{file.path}: Spark cannot read .{suffix} files; compress the file with gzip")
    with fs.open(file.path, "rb", compression="infer") as handle:
        head: bytes = handle.read(_HEAD_BYTES)
    return head, len(head) < _HEAD_BYTES


def _parse_head(log: Log, file: LogFile, head: bytes, is_whole: bool) -> FileSchema:
    """Return the schema of a CSV or JSON file, from its first bytes."""
    if archive := next((name for mark, name in _ARCHIVES.items() if head.startswith(mark)), None):
        raise DataError(
            f"{file.path}: the file is compressed with {archive}, which Spark cannot read; use gzip instead"
        )
    if head.startswith(b"PAR1"):
        raise DataError(f"{file.path}: the file is a Parquet file; set `format` of the log to parquet")
    if head.startswith(b"\x1f\x8b"):
        raise DataError(f"{file.path}: the file is compressed with gzip, but its name does not end in .gz; rename it")
    if head.startswith(_UTF16_MARKS) or b"\0" in head:
        raise DataError(f"{file.path}: the file is UTF-16 or binary; convert it to UTF-8")
    text = head.decode(log.encoding, errors="replace").removeprefix("\ufeff")
    if not text.strip():
        return EMPTY
    if log.format == "json":
        _check_json_lines(file, text)
        return FileSchema(None)
    names = _split_header(text, log.separator)
    if shown := find_separator(names):
        raise DataError(
            f'{file.path}: the header has a single column (`{names[0][:60]}`); set `separator` of the log to "{shown}"'
        )
    return FileSchema(_make_unique(names), _choose_multiline(log, text, is_whole, len(names)))


def _check_json_lines(file: LogFile, text: str) -> None:
    """Raise `DataError` if a JSON file is an array, or has objects that span several lines."""
    first = text.lstrip().splitlines()[0].rstrip()
    if first.startswith("[") or first == "{":
        is_array = first.startswith("[")
        what = "is a JSON array" if is_array else "has JSON objects that span several lines"
        remedy = "jq -c '.[]'" if is_array else "jq -c ."
        raise DataError(
            f"{file.path}: the file {what}, but the format `json` needs one object per line; convert it with `{remedy}`"
        )


def _split_header(text: str, separator: str) -> list[str]:
    """Return the column names in the first line of a CSV file."""
    if len(separator) > 1:
        return text.splitlines()[0].split(separator)
    return next(csv.reader(io.StringIO(text, newline=""), delimiter=separator))


def _make_unique(names: list[str]) -> tuple[str, ...]:
    """Rename columns without a name, and columns with the same name except for case, as Spark does."""
    lower = [name.lower() for name in names]
    return tuple(
        f"_c{k}" if not name else f"{name}{k}" if lower.count(name.lower()) > 1 else name
        for k, name in enumerate(names)
    )


def _choose_multiline(log: Log, text: str, is_whole: bool, width: int) -> bool:
    """Return whether to read values that span several lines: as declared, or if it makes fewer lines unreadable."""
    if log.multiline is not None:
        return log.multiline
    if len(log.separator) > 1 or '"' not in text:
        return False
    lines = re.split(r"\r\n|\n|\r", text)
    # The last line of the head may be cut.
    lines = lines if is_whole else lines[:-1]
    unreadable = sum(_count_values(line, log.separator) not in (0, width) for line in lines)
    return unreadable > 0 and _count_unreadable_lines(lines, log.separator, width) < unreadable


def _count_values(line: str, separator: str) -> int:
    """Count the values in a line of a CSV file; -1 if a quoted value does not end in this line."""
    if '"' not in line:
        return line.count(separator) + 1 if line.strip() else 0
    try:
        return len(next(csv.reader([line], delimiter=separator, strict=True)))
    except csv.Error:
        return -1


def _count_unreadable_lines(lines: Sequence[str], separator: str, width: int) -> int:
    """Count the lines that have a wrong number of values if quoted values may contain line breaks."""
    records = csv.reader(iter([f"{line}\n" for line in lines]), delimiter=separator, strict=True)
    unreadable, start = 0, 0
    while True:
        try:
            values = next(records, None)
        except csv.Error:
            # Characters after a closing quote, or the end of the text within quotes.
            values = [""] * (width + 1)
        if values is None:
            return unreadable
        # A quote without its counterpart swallows the next lines: each of them counts.
        unreadable += (records.line_num - start) * (len(values) not in (0, width))
        start = records.line_num


def _describe_repeated(path: str, names: list[str]) -> str:
    return f"{path}: the columns {', '.join(f'`{n}`' for n in names)} have the same name except for case; rename one"
