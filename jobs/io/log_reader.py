"""Read the declared logs with Spark.

Files of one log may differ in their columns and types. They are read in groups with the same schema, because a single
schema for all files would change or drop values that do not fit it. This needs the header or footer of each file, so
these are read first, many at a time.
"""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import LongType, StringType, StructField, StructType

from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.logs import Log
from star_ctr.conf.settings.root import Settings
from star_ctr.features.cleaning.clean_log import union_frames
from star_ctr.features.cleaning.log_columns import CORRUPT, FILE_DAY, get_column
from star_ctr.jobs.io.log_files import LogFile, format_glob, has_day_in_path, list_files, make_glob, open_file_system

_HEADER_BYTES = 1 << 20
"""Maximum size of the header of a CSV file."""
_AT_ONCE = 16
"""Number of file headers to read concurrently, to hide the latency of object stores."""


def read(settings: Settings, spark: SparkSession, name: str, days: list[str] | None) -> dict[str, DataFrame] | None:
    """Read the raw rows of a log.

    Args:
        settings: The settings of the data set.
        spark: The Spark session.
        name: The log.
        days: The days to read if the log's path contains days; None for all days.

    Returns:
        One DataFrame per schema, by the name of its first file; None if no file of these days has rows.

    Raises:
        DataError: No file matches the path for any day, or a file cannot be read in the declared format.
    """
    log = settings.logs.get_declared()[name]
    glob = make_glob(settings, log)
    if log.format == "delta" and not has_day_in_path(log):
        return {glob: _load(spark.read, log, glob)}
    found = list_files(settings, name)
    if not found:
        which = f"{glob} for any day" if has_day_in_path(log) else glob
        raise DataError(f"logs.{name}.path: no file matches {which}; check paths.logs ({settings.paths.logs})")
    selected = [f for f in found if days is None or f.day is None or f.day in days]
    frames: dict[str, DataFrame] = {}
    kinds: dict[tuple[Any, ...], list[str]] = {}
    for members, schema in _group_files(settings, log, selected):
        frame = _read_group(spark, settings, log, members, schema)
        if not frame.columns:
            continue
        day = members[0].day
        first = members[0].path
        frames[first] = frame.withColumn(FILE_DAY, F.lit(day)) if day else frame
        kind = tuple(sorted((f.name, f.dataType.simpleString()) for f in frames[first].schema.fields))
        kinds.setdefault(kind, []).append(first)
    return {firsts[0]: union_frames([frames[first] for first in firsts]) for firsts in kinds.values()} or None


def _group_files(settings: Settings, log: Log, files: list[LogFile]) -> Iterator[tuple[list[LogFile], Any]]:
    """Yield groups of files that can be read together (same day, folder and schema), with their schema."""
    # A writer without rows may leave an empty file.
    files = [f for f in files if f.size or log.format == "parquet"]
    groups: dict[tuple[Any, ...], list[LogFile]] = {}
    schemas: dict[tuple[Any, ...], Any] = {}
    for file, schema in zip(files, _read_schemas(settings, log, files), strict=True):
        if schema is not EMPTY:
            key = (file.day, file.folder, str(schema))
            groups.setdefault(key, []).append(file)
            schemas[key] = schema
    yield from ((members, schemas[key]) for key, members in groups.items())


EMPTY = "empty"
"""Marks the schema of a file without rows: a CSV file without a header, or an empty Parquet file."""


def _read_schemas(settings: Settings, log: Log, files: list[LogFile]) -> Iterator[Any]:
    """Yield the schema of each file: the column names of a CSV file, the Arrow schema of a Parquet file, else None."""
    fs = open_file_system(settings, log)

    def read_schema(file: LogFile) -> Any:
        try:
            if log.format == "csv":
                return _read_header(fs, log, file)
            if log.format == "parquet":
                with fs.open(file.path, "rb") as handle:
                    footer = pq.ParquetFile(handle)
                    return footer.schema_arrow.remove_metadata() if footer.metadata.num_rows else EMPTY
        except (OSError, EOFError, ValueError, zlib.error, csv.Error, pa.ArrowException) as error:
            raise DataError(f"{file.path}: cannot be read as {log.format}: {str(error).splitlines()[0]}") from None
        return None

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield from pool.map(read_schema, files)


def _read_header(fs: Any, log: Log, file: LogFile) -> Any:
    """Return the column names of a CSV file, made unique in the same way as in Spark; EMPTY if there is no header."""
    with fs.open(file.path, "rb", compression="infer") as handle:
        head = handle.read(_HEADER_BYTES)
    text = head.decode(log.encoding, errors="replace").removeprefix("\ufeff")
    if not text.strip():
        return EMPTY
    if len(log.separator) > 1:
        names = text.splitlines()[0].split(log.separator)
    else:
        names = next(csv.reader(io.StringIO(text, newline=""), delimiter=log.separator))
    lower = [name.lower() for name in names]
    repeated = {name for name in lower if lower.count(name) > 1}
    return tuple(
        f"_c{k}" if not name else f"{name}{k}" if name.lower() in repeated else name for k, name in enumerate(names)
    )


def _read_group(spark: SparkSession, settings: Settings, log: Log, members: list[LogFile], schema: Any) -> DataFrame:
    """Read the rows of files with one schema. The DataFrame has no columns if JSON files have no rows."""
    urls = [_escape(f.url) for f in members]
    day, folder = members[0].day, members[0].folder
    if log.format == "csv":
        # Add a column for corrupt records. Without it, Spark drops surplus fields silently.
        fields = StructType([StructField(c, StringType()) for c in (*schema, CORRUPT)])
        reader = spark.read.schema(fields).option("header", "true").option("sep", log.separator).option("escape", '"')
        # Disable column pruning, because the parser detects surplus fields only if it reads all columns.
        reader = reader.option("encoding", log.encoding).option("columnPruning", "false")
        reader = reader.option("columnNameOfCorruptRecord", CORRUPT)
        return reader.csv(urls)
    if log.format == "json":
        # Read numbers as text, because 12 in one file may be 12.0 in another, and large ids would lose digits.
        reader = spark.read.option("primitivesAsString", "true").option("columnNameOfCorruptRecord", CORRUPT)
        if log.encoding.upper() not in ("UTF-8", "UTF8"):
            reader = reader.option("encoding", log.encoding).option("lineSep", "\n")
        found = _load(reader, log, urls).schema.fields
        if not found:
            return spark.createDataFrame([], StructType())
        names = [f for f in found if f.name != CORRUPT]
        return reader.schema(StructType([*names, StructField(CORRUPT, StringType())])).json(urls)
    if log.format == "delta":
        return _load(spark.read, log, format_glob(make_glob(settings, log), str(day)))
    # Folders below the folder that the glob matched may be partition columns, for example `hour=13`.
    reader = spark.read.option("basePath", folder) if folder else spark.read
    return restore_instants(_load(reader, log, urls), schema)


def restore_instants(rows: DataFrame, schema: pa.Schema) -> DataFrame:
    """Convert nanosecond times, which Spark reads from Parquet as integers, to timestamps.

    Times with a time zone become `timestamp`, times without one `timestamp_ntz`. Both are truncated to microseconds.

    Args:
        rows: The rows as read by Spark.
        schema: The Arrow schema of the files, which distinguishes times from integers.

    Returns:
        The rows with the converted columns.
    """
    times = {}
    for field in schema:
        is_nanos = pa.types.is_timestamp(field.type) and field.type.unit == "ns"
        if is_nanos and field.name in rows.columns and isinstance(rows.schema[field.name].dataType, LongType):
            micros = F.timestamp_micros(F.call_function("div", get_column(field.name), F.lit(1000)))
            # The time zone of the session is UTC, so the cast keeps the local time unchanged.
            times[field.name] = micros if field.type.tz is not None else micros.cast("timestamp_ntz")
    return rows.withColumns(times) if times else rows


def _load(reader: Any, log: Log, paths: str | list[str]) -> DataFrame:
    """Load files in the format of the log; raises `DataError` if Spark cannot read them."""
    try:
        frame: DataFrame = reader.format(log.format).load(paths)
        return frame
    except AnalysisException as error:
        raise DataError(f"{paths}: cannot be read as {log.format}: {str(error).splitlines()[0]}") from None


def _escape(url: str) -> str:
    """Escape glob characters in a path for Spark."""
    return "".join(f"\\{c}" if c in "{}[]*?\\" else c for c in url)
