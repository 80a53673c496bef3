"""Read the declared logs with Spark.

Files of one log may differ in their columns and types. They are read in groups with the same schema, because a single
schema for all files would change or drop values that do not fit it. This needs the header or footer of each file, so
these are read first, many at a time.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import LongType, StringType, StructField, StructType

from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.conf.settings.sources import Log
from star_ctr.features.cleaning.log_columns import (
    CORRUPT,
    FILE_DAY,
    add_nested_columns,
    get_column,
    list_declared_columns,
)
from star_ctr.features.cleaning.raw_rows import RawRows, union_frames
from star_ctr.features.cleaning.source_rows import prepare_rows
from star_ctr.jobs.io.catalog_tables import read_catalog_table
from star_ctr.jobs.io.external_errors import describe_external_error
from star_ctr.jobs.io.file_schemas import EMPTY, FileSchema, read_schemas
from star_ctr.jobs.io.log_files import (
    LogFile,
    describe_no_files,
    list_files,
    open_file_system,
)
from star_ctr.jobs.io.session import SPARK_ERRORS

_logger = logging.getLogger(__name__)
_GLOB_OPTION = "__globPaths__"
"""An option of Spark's file sources that switches off the expansion of globs."""


def read(
    settings: Settings,
    spark: SparkSession,
    name: str,
    days: list[str] | None,
    only: Sequence[LogFile] | None = None,
) -> dict[str, RawRows] | None:
    """Read the raw rows of a log.

    Args:
        settings: The settings of the data set.
        spark: The Spark session.
        name: The log.
        days: The days to read if a path contains days; None for all days.
        only: The files to read; all by default.

    Returns:
        The rows of each source and schema, by the name of the first file with this schema; None if no file of these
        days has rows.

    Raises:
        DataError: No file matches the path for any day, a file cannot be read in the declared format, or an expression
            of the settings is invalid.
    """
    log = settings.logs.get_declared()[name]
    files = list_files(settings, name) if only is None else only
    found: dict[str, RawRows] = {}
    for source_name, source in log.list_sources().items():
        key = f"logs.{name}.sources.{source_name}" if source_name else f"logs.{name}"
        declared = list_declared_columns(settings, name)
        if source.table:
            frames = {source.table: RawRows(source, _read_table(spark, source.table, key))}
        else:
            own = [f for f in files if f.source == source_name]
            if not own and only is not None:
                continue
            if not own:
                raise DataError(describe_no_files(settings, name))
            own = [f for f in own if days is None or f.day in (None, *days)]
            frames = _read_files(spark, settings, source, own)
        for first, (_, frame, folder_columns) in frames.items():
            if source_name and log.source_column in frame.columns:
                raise DataError(
                    f"{key}: the log has a column `{log.source_column}`; set logs.{name}.source_column to another name"
                )
            rows = frame.withColumn(log.source_column, F.lit(source_name)) if source_name else frame
            # Expressions and lists may use fields of structs, and computed columns may be structs.
            rows = add_nested_columns(rows, {*declared, *_list_exploded(source)} - set(source.columns))
            rows = add_nested_columns(prepare_rows(source, rows, key), declared)
            # Two sources may read the same file with different conditions.
            found[f"{source_name}: {first}" if source_name else first] = RawRows(source, rows, folder_columns)
    return found or None


def _list_exploded(source: Log) -> set[str]:
    """List the columns with lists that a source explodes."""
    explode = source.explode
    return {explode.items, *explode.parallel, *([explode.clicked] if explode.clicked else [])} if explode else set()


def _read_table(spark: SparkSession, table: str, key: str) -> DataFrame:
    """Read a table of a catalog."""
    found = read_catalog_table(spark, table, f"{key}.table")
    _logger.info("%s.table: reading %s of %s", key, found.snapshot or "the current rows", table)
    return found.rows


def _read_files(spark: SparkSession, settings: Settings, source: Log, files: list[LogFile]) -> dict[str, RawRows]:
    """Read the files of a source: the rows of each schema, by the name of the first file with this schema."""
    frames: dict[str, DataFrame] = {}
    kinds: dict[tuple[Any, ...], list[str]] = {}
    for members, schema, folder_columns in _group_files(settings, source, files):
        frame = _read_group(spark, source, members, schema)
        if not frame.columns:
            continue
        day, first = members[0].day, members[0].path
        frames[first] = frame.withColumn(FILE_DAY, F.lit(day)) if day else frame
        kind = tuple(sorted((f.name, f.dataType.simpleString()) for f in frames[first].schema.fields))
        kinds.setdefault((folder_columns, *kind), []).append(first)
    return {
        firsts[0]: RawRows(source, union_frames([frames[first] for first in firsts]), frozenset(folder_columns))
        for (folder_columns, *_), firsts in kinds.items()
    }


def _group_files(
    settings: Settings, log: Log, files: list[LogFile]
) -> Iterator[tuple[list[LogFile], FileSchema, tuple[str, ...]]]:
    """Yield groups of files that can be read together, with their schema and the columns in names of folders."""
    # A writer without rows may leave an empty file.
    files = [f for f in files if f.size or log.format not in ("csv", "json")]
    groups: dict[tuple[Any, ...], list[LogFile]] = {}
    schemas: dict[tuple[Any, ...], FileSchema] = {}
    for file, schema in zip(files, read_schemas(open_file_system(settings, log), log, files), strict=True):
        if schema is not EMPTY:
            partitions = tuple(re.findall(r"/(\w+)=", file.url[len(file.base) :])) if file.base else ()
            _check_folder_columns(file, schema, partitions)
            key = (file.day, file.base, partitions, str(schema), file.path if log.format == "delta" else "")
            groups.setdefault(key, []).append(file)
            schemas[key] = schema
    yield from ((members, schemas[key], key[2]) for key, members in groups.items())


def _check_folder_columns(file: LogFile, schema: FileSchema, folder_columns: Iterable[str]) -> None:
    """Raise `DataError` if a file has a column that is also in the names of its folders."""
    # Spark would use the value in the name of the folder, and read the columns of a CSV file in the wrong order.
    names = schema.columns.names if isinstance(schema.columns, pa.Schema) else schema.columns
    own = {name.lower() for name in names} if isinstance(names, list | tuple) else set()
    if both := [name for name in folder_columns if name.lower() in own]:
        raise DataError(
            f"{file.path}: `{both[0]}` is a column of the file and part of the name of its folder; rename one of them"
        )


def _read_group(spark: SparkSession, log: Log, members: list[LogFile], schema: FileSchema) -> DataFrame:
    """Read the rows of files with one schema. The DataFrame has no columns if JSON files have no rows."""
    urls = [f.url for f in members]
    base = members[0].base
    # The paths are of files, not globs, so that they may contain any character.
    source = spark.read.option(_GLOB_OPTION, "false")
    source = source.option("basePath", base) if base else source
    if log.format == "csv":
        # Add a column for corrupt records. Without it, Spark drops surplus fields silently.
        fields = StructType([StructField(c, StringType()) for c in (*schema.columns, CORRUPT)])
        reader = source.schema(fields).option("header", "true").option("sep", log.separator).option("escape", '"')
        # Disable column pruning, because the parser detects surplus fields only if it reads all columns.
        reader = reader.option("encoding", log.encoding).option("columnPruning", "false")
        reader = reader.option("columnNameOfCorruptRecord", CORRUPT).option("multiLine", schema.multiline)
        return _load(reader, log, urls)
    if log.format == "json":
        # Read numbers as text, because 12 in one file may be 12.0 in another, and large ids would lose digits.
        reader = source.option("primitivesAsString", "true").option("columnNameOfCorruptRecord", CORRUPT)
        if log.encoding.upper() not in ("UTF-8", "UTF8"):
            reader = reader.option("encoding", log.encoding).option("lineSep", "\n")
        found = _load(reader, log, urls).schema.fields
        if not found:
            return spark.createDataFrame([], StructType())
        names = [f for f in found if f.name != CORRUPT]
        return _load(reader.schema(StructType([*names, StructField(CORRUPT, StringType())])), log, urls)
    if log.format == "delta":
        return _load(spark.read, log, urls[0])
    rows = _load(source, log, urls)
    return restore_instants(rows, schema.columns) if log.format == "parquet" else rows


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
    except SPARK_ERRORS as error:
        first = paths if isinstance(paths, str) else paths[0]
        if match := re.search(r"COLUMN_ALREADY_EXISTS\]? .*?`([^`]+)`", str(error)):
            raise DataError(
                f"{first}: several columns are called `{match[1]}`, ignoring case; rename them so that they differ in "
                "more than case"
            ) from None
        raise DataError(f"{first}: cannot be read as {log.format}: {describe_external_error(error)}") from None
