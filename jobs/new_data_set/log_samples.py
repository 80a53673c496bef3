"""Read a sample of the newest rows of a log with pandas."""

from __future__ import annotations

import csv
import json
from collections import Counter
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from fsspec import AbstractFileSystem

from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.sources import NULL_VALUES
from star_ctr.jobs.new_data_set.log_groups import LogGroup

_SEPARATORS = (",", "\t", ";", "|")
_ENCODINGS = ("utf-8-sig", "gb18030", "windows-1252")
_MAX_FILES = 8
"""Maximum number of files in a sample, spread over the newest days."""
_SCAN_FACTOR = 5
"""Rows read per row of the sample. A file may be sorted, so its first rows alone are not representative."""


class LogSample(NamedTuple):
    """A sample of a log.

    Attributes:
        group: The log.
        rows: The rows. The values of text files are text, and missing values are null.
        options: The keys of the log's section in the YAML file that say how files are read, such as `separator`.
        is_complete: Whether the sample contains all rows.
    """

    group: LogGroup
    rows: pd.DataFrame
    options: dict[str, str]
    is_complete: bool


def read_sample(fs: AbstractFileSystem, group: LogGroup, rows: int) -> LogSample:
    """Read a sample of a log.

    Args:
        fs: The file system.
        group: The log.
        rows: The maximum number of rows.

    Returns:
        The newest rows.

    Raises:
        DataError: A file cannot be read.
    """
    options: dict[str, str] = {}
    frames, left, is_cut = [], rows, False
    files = list(reversed(group.files))[:_MAX_FILES]
    for k, file in enumerate(files):
        # Leave rows for the other days.
        wanted = max(left // (len(files) - k), 1)
        try:
            frame = _read(fs, group.format, file.path, wanted * _SCAN_FACTOR, options)
        except (ValueError, OSError, EOFError, pa.ArrowException, DeltaError) as error:
            raise DataError(f"{file.path}: cannot read as {group.format}: {str(error).splitlines()[0]}") from None
        is_cut = len(frame) > wanted
        frames.append(frame.sample(wanted, random_state=0).sort_index() if is_cut else frame)
        left -= len(frames[-1])
        if left <= 0:
            break
    read = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    return LogSample(group, read, options, len(frames) == len(group.files) and not is_cut)


def _read(fs: AbstractFileSystem, kind: str, path: str, rows: int, options: dict[str, str]) -> pd.DataFrame:
    """Read the first rows of a file."""
    match kind:
        case "csv":
            return _read_csv(fs, path, rows, options)
        case "json":
            return _read_json(fs, path, rows, options)
        case "delta":
            return _read_delta(fs, path, rows)
        case "orc":
            with fs.open(path, "rb") as file:
                return _to_pandas(pyarrow.orc.ORCFile(file).read().slice(0, rows))
        case "parquet":
            with fs.open(path, "rb") as file:
                return _read_parquet(file, rows)
    raise ValueError(f"`init` does not read {kind}; add this log by hand")


def _read_csv(fs: AbstractFileSystem, path: str, rows: int, options: dict[str, str]) -> pd.DataFrame:
    encoding, head = _detect_encoding(fs, path)
    separator = _detect_separator(head)
    if separator != ",":
        options["separator"] = "\\t" if separator == "\t" else separator
    _keep_encoding(encoding, options)
    with fs.open(path, "rb", compression="infer") as file:
        read = pd.read_csv(
            file, sep=separator, dtype=str, keep_default_na=False, nrows=rows, encoding=encoding, on_bad_lines="skip",
            encoding_errors="replace",
        )  # fmt: skip
    read.columns = [str(name).strip() for name in read.columns]
    return read.apply(_clear_nulls)


def _read_json(fs: AbstractFileSystem, path: str, rows: int, options: dict[str, str]) -> pd.DataFrame:
    encoding, _ = _detect_encoding(fs, path)
    _keep_encoding(encoding, options)
    found = list[dict[str, Any]]()
    with fs.open(path, "rb", compression="infer") as file:
        for number, line in enumerate(file, start=1):
            if len(found) == rows:
                break
            if not line.strip():
                continue
            try:
                value = json.loads(line.decode(encoding, errors="replace"))
            except ValueError:
                raise ValueError(f"line {number} is not a JSON object; write one object per line") from None
            if not isinstance(value, dict):
                raise ValueError(f"line {number} is not a JSON object; write one object per line")
            found.append(value)
    return pd.DataFrame(found, dtype=object).apply(_clear_nulls)


def _read_delta(fs: AbstractFileSystem, path: str, rows: int) -> pd.DataFrame:
    # fsspec strips the scheme of a URL.
    table = DeltaTable(fs.unstrip_protocol(path) if "file" not in fs.protocol else path)
    frames, left = [], rows
    actions = pa.table(table.get_add_actions(flatten=True)).sort_by([("path", "descending")]).to_pylist()
    for action in actions:
        with fs.open(f"{path}/{action['path']}", "rb") as file:
            frame = _read_parquet(file, left)
        partition = {k.removeprefix("partition."): v for k, v in action.items() if k.startswith("partition.")}
        frames.append(frame.assign(**partition))
        left -= len(frame)
        if left <= 0 or len(frames) == _MAX_FILES:
            break
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _read_parquet(file: Any, rows: int) -> pd.DataFrame:
    batches, left = [], rows
    source = pq.ParquetFile(file)
    for batch in source.iter_batches(min(rows, 65_536)):
        batches.append(batch.slice(0, left))
        left -= len(batches[-1])
        if left <= 0:
            break
    return _to_pandas(pa.Table.from_batches(batches, source.schema_arrow))


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas(integer_object_nulls=True, ignore_metadata=True)
    cleared: pd.DataFrame = frame.apply(lambda column: _clear_nulls(column) if column.dtype == object else column)
    return cleared


def _clear_nulls(column: pd.Series) -> pd.Series:
    """Replace the texts that stand for a missing value by None."""
    is_null = column.map(lambda v: v is None or (isinstance(v, str) and v in NULL_VALUES))
    return column.mask(is_null, None) if is_null.any() else column


def _detect_encoding(fs: AbstractFileSystem, path: str) -> tuple[str, str]:
    """Return the encoding of a text file, and its first lines."""
    with fs.open(path, "rb", compression="infer") as file:
        head = file.read(1 << 18)
    head = head[: head.rfind(b"\n") + 1] or head
    for encoding in _ENCODINGS:
        try:
            return encoding, head.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise ValueError("the encoding is not UTF-8, GBK or windows-1252; add this log by hand and set its `encoding`")


def _keep_encoding(encoding: str, options: dict[str, str]) -> None:
    if encoding != "utf-8-sig":
        options["encoding"] = {"gb18030": "GBK"}.get(encoding, encoding)


def _detect_separator(head: str) -> str:
    """Return the separator that splits the first lines into equally many columns; if several do, the most columns."""
    lines = head.splitlines()[:20]
    widths: dict[str, int] = {}
    for separator in _SEPARATORS:
        counts = Counter(len(row) for row in csv.reader(lines, delimiter=separator))
        ((width, n),) = counts.most_common(1) or [(0, 0)]
        if width > 1 and n >= 0.9 * len(lines):
            widths[separator] = width
    return max(widths, key=lambda separator: widths[separator], default=",")
