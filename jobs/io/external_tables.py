"""Read and replace tables that a user names by path or URL: Delta or Parquet to read, Delta to replace."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

import fsspec
import pyarrow.parquet as pq
from delta.tables import DeltaTable
from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import LongType

from star_ctr.conf.errors import DataError, UserError
from star_ctr.jobs.io.external_errors import describe_external_error
from star_ctr.jobs.io.log_reader import restore_instants
from star_ctr.jobs.io.session import SPARK_ERRORS


class ExternalTable(NamedTuple):
    """The rows of a table, and their Delta version (None for Parquet)."""

    rows: DataFrame
    version: int | None


def load_external_table(spark: SparkSession, table: str) -> ExternalTable:
    """Load the newest version of a table.

    Args:
        spark: The Spark session.
        table: Path or URL of a Delta or Parquet table. All files of a Parquet table must have the same schema.

    Returns:
        The rows and the Delta version of the table.

    Raises:
        DataError: The path has neither a Delta nor a Parquet table.
    """
    try:
        return open_external_table(spark, table)
    except SPARK_ERRORS as error:
        raise DataError(f"{table}: neither a Delta nor a Parquet table: {extract_reason(error)}") from None


def open_external_table(spark: SparkSession, table: str) -> ExternalTable:
    """Load a table like `load_external_table`, but raise Spark's exception (one of SPARK_ERRORS), not `DataError`."""
    if DeltaTable.isDeltaTable(spark, table):
        version = int(DeltaTable.forPath(spark, table).history(1).select("version").collect()[0].version)
        return ExternalTable(spark.read.format("delta").option("versionAsOf", version).load(table), version)
    return ExternalTable(restore_times(spark.read.parquet(table)), None)


def restore_times(rows: DataFrame) -> DataFrame:
    """Convert the times of a Parquet table as ingest does; see `restore_instants`.

    The schema is read from the first file, so all files of the table must have the same schema.

    Args:
        rows: The rows of the table, as read by Spark.

    Returns:
        The rows with the converted columns.
    """
    files = rows.inputFiles() if any(isinstance(f.dataType, LongType) for f in rows.schema.fields) else []
    if not files:
        return rows
    with fsspec.open(unquote(files[0]), "rb") as handle:
        return restore_instants(rows, pq.read_schema(handle))


def extract_reason(error: Exception) -> str:
    """Return the message of an exception of Spark in one sentence."""
    return describe_external_error(error) or str(error).splitlines()[0]


def filter_rows(rows: DataFrame, where: str | None) -> DataFrame:
    """Filter rows by the SQL condition of `--where`; raises `UserError` if Spark cannot analyze it."""
    try:
        return rows.where(where) if where else rows
    except AnalysisException as error:
        raise UserError(f"--where {where}: {str(error).splitlines()[0]}") from None


def resolve_address(spark: SparkSession, table: str) -> str:
    """Return the absolute URL of a table, the same for all paths to it; raises `DataError` if it cannot be accessed."""
    files, path = _open_file_system(spark, table)
    full = str(files.makeQualified(path).toString())
    return f"file:{os.path.realpath(full.removeprefix('file:'))}" if full.startswith("file:") else full


def _open_file_system(spark: SparkSession, table: str) -> tuple[Any, Any]:
    """Return the Hadoop file system of a table and its path; raises `DataError` if it cannot be accessed."""
    context: Any = spark.sparkContext
    path = context._jvm.org.apache.hadoop.fs.Path(table)
    try:
        return path.getFileSystem(context._jsc.hadoopConfiguration()), path
    except (PySparkException, Py4JJavaError) as error:
        raise DataError(f"{table}: cannot be accessed; check the path or URL: {extract_reason(error)}") from None


def is_within(path: str, folder: str) -> bool:
    """Return whether a path is equal to or inside a folder."""
    return f"{path}/".startswith(f"{folder}/")


def list_delta_columns(spark: SparkSession, table: str) -> list[str] | None:
    """Return the columns of the Delta table at a path.

    Returns:
        The columns; an empty list if the path has something else than a Delta table; None if it has nothing.
    """
    if DeltaTable.isDeltaTable(spark, table):
        return list(spark.read.format("delta").load(table).columns)
    files, path = _open_file_system(spark, table)
    if not files.exists(path):
        return None
    names = {status.getPath().getName() for status in files.listStatus(path)}
    # A first write that was killed leaves data files and a log folder, but no commit.
    return None if not names or "_delta_log" in names else []


class ReplacedTable(NamedTuple):
    """The version that a commit created, and the number of rows that it wrote."""

    version: int
    rows: int


def replace_external_table(rows: DataFrame, table: str, metadata: Mapping[str, Any]) -> ReplacedTable:
    """Replace a Delta table in one commit. If the write is killed, the previous version remains.

    Args:
        rows: The new rows; their schema replaces that of the table.
        table: Path or URL of the table.
        metadata: Values for the metadata of the commit, stored as JSON.

    Returns:
        The new version and its number of rows.
    """
    writer = rows.write.format("delta").mode("overwrite").option("overwriteSchema", "true")
    writer.option("userMetadata", json.dumps(metadata)).save(table)
    commit = DeltaTable.forPath(rows.sparkSession, table).history(1).select("version", "operationMetrics").first()
    assert commit is not None
    return ReplacedTable(int(commit.version), int(commit.operationMetrics["numOutputRows"]))
