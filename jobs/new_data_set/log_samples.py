"""Read a sample of the newest rows of a log."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
from deltalake.exceptions import DeltaError
from fsspec import AbstractFileSystem

from star_ctr.conf.errors import DataError
from star_ctr.jobs.new_data_set.file_readers import read_file
from star_ctr.jobs.new_data_set.log_groups import GroupFile, LogGroup

_MAX_FILES = 8
"""Maximum number of files in a sample, the newest ones."""
_SCAN_FACTOR = 5
"""Rows read per row of the sample. A file may be sorted, so its first rows alone are not representative."""
_MAX_VALUES = 5_000_000
"""Maximum number of values that `read_values` reads."""


class LogSample(NamedTuple):
    """A sample of a log.

    Attributes:
        group: The log.
        rows: The rows. The values of text files are text, and missing values are null.
        days: The day in the path of each row's file; None if the path contains none.
        options: The keys of the log's section in the YAML file that say how files are read, such as `separator`.
        is_complete: Whether the sample contains all rows.
        fs: The file system.
    """

    group: LogGroup
    rows: pd.DataFrame
    days: pd.Series
    options: dict[str, str]
    is_complete: bool
    fs: AbstractFileSystem


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
    frames: list[pd.DataFrame] = []
    days: list[str | None] = []
    left, is_cut, n_read = rows, False, 0
    files = list(reversed(group.files))[: 4 * _MAX_FILES]
    for k, file in enumerate(files):
        if left <= 0 or len(frames) == _MAX_FILES:
            break
        # Leave rows for the other days.
        wanted = max(left // min(len(files) - k, _MAX_FILES - len(frames)), 1)
        frame = _read(fs, group, file, wanted * _SCAN_FACTOR, options)
        n_read += 1
        if frame.empty:
            continue
        if len(frame) > wanted:
            frame, is_cut = frame.sample(wanted, random_state=0).sort_index(), True
        frames.append(frame)
        days += [file.day] * len(frame)
        left -= len(frame)
    read = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    is_complete = n_read == len(group.files) and not is_cut
    return LogSample(group, read, pd.Series(days, index=read.index, dtype=object), options, is_complete, fs)


def read_values(sample: LogSample, column: str, days: Collection[str] | None) -> pd.Series | None:
    """Read all values of a column of a log.

    Args:
        sample: A sample of the log.
        column: The column.
        days: The days to read; None for all files.

    Returns:
        The values that are not missing, as text; None if there are too many to read.
    """
    if sample.is_complete:
        return sample.rows[column].dropna().astype(str)
    wanted = [file for file in sample.group.files if days is None or file.day is None or file.day in days]
    found: list[pd.Series] = []
    for values in _iter_values(sample, wanted, column):
        found.append(values)
        if sum(map(len, found)) >= _MAX_VALUES:
            return None
    return pd.concat(found) if found else pd.Series([], dtype=object)


def _iter_values(sample: LogSample, files: list[GroupFile], column: str) -> Iterator[pd.Series]:
    for file in files:
        frame = _read(sample.fs, sample.group, file, _MAX_VALUES, {}, column)
        if column in frame:
            yield frame[column].dropna().astype(str)


def _read(
    fs: AbstractFileSystem,
    group: LogGroup,
    file: GroupFile,
    rows: int,
    options: dict[str, str],
    column: str | None = None,
) -> pd.DataFrame:
    try:
        return read_file(fs, group.format, file.path, rows, options, column)
    except (ValueError, OSError, EOFError, AttributeError, pa.ArrowException, DeltaError) as error:
        raise DataError(f"{file.path}: cannot read as {group.format}: {str(error).splitlines()[0]}") from None
