"""Read the first rows of a log file with pandas."""

from __future__ import annotations

import csv
import json
from collections import Counter
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from fsspec import AbstractFileSystem

from star_ctr.conf.settings.sources import NULL_VALUES

_SEPARATORS = (",", "\t", ";", "|")
_ENCODINGS = ("utf-8-sig", "gb18030", "windows-1252")
_MAX_FILES = 8
"""Maximum number of files of a Delta table to read."""
_MAX_BYTES = 64 << 20
"""Approximate maximum size of the text that is read from a file."""
_HEAD = 1 << 18
"""Bytes from which encoding, separator and the size of rows are found."""


def read_file(
    fs: AbstractFileSystem, kind: str, path: str, rows: int, options: dict[str, str], column: str | None = None
) -> pd.DataFrame:
    """Read the first rows of a file.

    Args:
        fs: The file system.
        kind: The format.
        path: The path of the file, or of the folder of a Delta table.
        rows: The maximum number of rows.
        options: Is filled with the keys of the YAML file that say how the file is read, such as `separator`.
        column: The only column to read; then only `rows` is a limit, and not the size. By default, all columns.

    Returns:
        The rows. The values of text files are text, and missing values are null.

    Raises:
        ValueError: The file cannot be read. pandas, pyarrow and deltalake raise further errors.
    """
    match kind:
        case "csv":
            return _read_csv(fs, path, rows, options, column)
        case "json":
            return _read_json(fs, path, rows, options, column)
        case "delta":
            return _read_delta(fs, path, rows, column)
        case "orc":
            with fs.open(path, "rb") as file:
                return _to_pandas(pyarrow.orc.ORCFile(file).read(column and [column]).slice(0, rows))
        case "parquet":
            with fs.open(path, "rb") as file:
                return _read_parquet(file, rows, column)
    raise ValueError(f"`init` does not read {kind}; add this log by hand")


def _read_csv(
    fs: AbstractFileSystem, path: str, rows: int, options: dict[str, str], column: str | None
) -> pd.DataFrame:
    encoding, head = _detect_encoding(fs, path)
    if not head.strip():
        return pd.DataFrame()
    separator = _detect_separator(head)
    if separator != ",":
        options["separator"] = "\\t" if separator == "\t" else separator
    _keep_encoding(encoding, options)
    with fs.open(path, "rb", compression="infer") as file:
        read = pd.read_csv(
            file, sep=separator, dtype=str, keep_default_na=False, encoding=encoding, on_bad_lines="skip",
            nrows=_limit_rows(head, rows) if column is None else rows, encoding_errors="replace",
            usecols=None if column is None else lambda name: name.strip() == column,
        )  # fmt: skip
    read = read.loc[:, [not str(name).startswith("Unnamed: ") for name in read.columns]]
    stripped = [str(name).strip() for name in read.columns]
    read.columns = pd.Index(stripped if len(set(stripped)) == len(stripped) else [str(name) for name in read.columns])
    return read.apply(_clear_nulls)


def _limit_rows(head: str, rows: int) -> int:
    """Limit a number of rows, so that their text is not larger than _MAX_BYTES."""
    return max(min(rows, _MAX_BYTES * max(head.count("\n"), 1) // len(head)), 1_000)


def _read_json(
    fs: AbstractFileSystem, path: str, rows: int, options: dict[str, str], column: str | None
) -> pd.DataFrame:
    encoding, head = _detect_encoding(fs, path)
    _keep_encoding(encoding, options)
    rows = _limit_rows(head, rows) if head and column is None else rows
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
            found.append(value if column is None else {column: value.get(column)})
    return pd.DataFrame(found, dtype=object).apply(_clear_nulls)


def _read_delta(fs: AbstractFileSystem, path: str, rows: int, column: str | None) -> pd.DataFrame:
    # fsspec strips the scheme of a URL.
    table = DeltaTable(fs.unstrip_protocol(path) if "file" not in fs.protocol else path)
    frames, left = [], rows
    actions = pa.table(table.get_add_actions(flatten=True)).sort_by([("path", "descending")]).to_pylist()
    for action in actions:
        with fs.open(f"{path}/{action['path']}", "rb") as file:
            frame = _read_parquet(file, left, column)
        partition = {k.removeprefix("partition."): v for k, v in action.items() if k.startswith("partition.")}
        frames.append(frame.assign(**partition))
        left -= len(frame)
        if left <= 0 or (column is None and len(frames) == _MAX_FILES):
            break
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _read_parquet(file: Any, rows: int, column: str | None) -> pd.DataFrame:
    batches, left = [], rows
    source = pq.ParquetFile(file)
    for batch in source.iter_batches(min(rows, 65_536), columns=column and [column]):
        batches.append(batch.slice(0, left))
        left -= len(batches[-1])
        if left <= 0:
            break
    return _to_pandas(pa.Table.from_batches(batches, None if batches else source.schema_arrow))


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
        data = file.read(_HEAD)
    data = data[: data.rfind(b"\n") + 1] or data
    for encoding in _ENCODINGS:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding != "gb18030" or _is_chinese(text):
            return encoding, text
    raise ValueError("the encoding is not UTF-8, GBK or windows-1252; add this log by hand and set its `encoding`")


def _is_chinese(text: str) -> bool:
    """Return whether text that was decoded as GBK is Chinese: most other encodings can be decoded as GBK, too."""
    special = [c for c in text if ord(c) > 127]
    common = sum(c.encode("gb18030")[0] in range(0xB0, 0xD8) or "\u3000" <= c <= "\u303f" for c in special)
    return common > 0.9 * len(special)


def _keep_encoding(encoding: str, options: dict[str, str]) -> None:
    if encoding != "utf-8-sig":
        options["encoding"] = {"gb18030": "GBK"}.get(encoding, encoding)


def _detect_separator(head: str) -> str:
    """Return the separator that splits the header and most lines equally often; if several do, the most columns."""
    lines = head.splitlines()[:50]
    widths: dict[str, int] = {}
    for separator in _SEPARATORS:
        counts = [len(row) for row in csv.reader(lines, delimiter=separator) if row]
        if counts and counts[0] > 1 and Counter(counts)[counts[0]] >= 0.9 * len(counts):
            widths[separator] = counts[0]
    return max(widths, key=lambda separator: widths[separator], default=",")
