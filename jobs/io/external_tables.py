"""Tables that a user names by path or URL, Delta or Parquet: reading one, and replacing one in a single commit."""

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
from star_ctr.jobs.io.log_reader import restore_instants


class ExternalTable(NamedTuple):
    """A table's rows, and the version that they are of (None: Parquet has none)."""

    rows: DataFrame
    version: int | None


NOT_READ = (PySparkException, Py4JJavaError)
"""What Spark raises where something cannot be read."""


def load_external_table(spark: SparkSession, table: str) -> ExternalTable:
    """The table at its newest version; `DataError` where there is neither a Delta nor a Parquet table."""
    try:
        return open_external_table(spark, table)
    except NOT_READ as error:
        raise DataError(f"{table}: neither a Delta nor a Parquet table: {extract_reason(error)}") from None


def open_external_table(spark: SparkSession, table: str) -> ExternalTable:
    """The same, with Spark's own error, one of NOT_READ."""
    if DeltaTable.isDeltaTable(spark, table):
        version = int(DeltaTable.forPath(spark, table).history(1).select("version").collect()[0].version)
        return ExternalTable(spark.read.format("delta").option("versionAsOf", version).load(table), version)
    return ExternalTable(restore_times(spark.read.parquet(table)), None)


def restore_times(rows: DataFrame) -> DataFrame:
    """Convert the times of a Parquet table in the same way as ingest; all of its files must have one schema."""
    files = rows.inputFiles() if any(isinstance(f.dataType, LongType) for f in rows.schema.fields) else []
    if not files:
        return rows
    with fsspec.open(unquote(files[0]), "rb") as handle:
        return restore_instants(rows, pq.read_schema(handle))


def extract_reason(error: Exception) -> str:
    """What Spark says: of an error out of Java, the line that names it."""
    java = getattr(error, "java_exception", None)
    return str(java.toString() if java is not None else error).splitlines()[0]


def filter_rows(rows: DataFrame, where: str | None) -> DataFrame:
    """The rows that an SQL condition of `--where` holds for; `UserError` for one that Spark cannot read."""
    try:
        return rows.where(where) if where else rows
    except AnalysisException as error:
        raise UserError(f"--where {where}: {str(error).splitlines()[0]}") from None


def resolve_address(spark: SparkSession, table: str) -> str:
    """The whole address of a table, the same however it is named; `DataError` for an URL that Spark cannot reach."""
    files, path = _open_file_system(spark, table)
    full = str(files.makeQualified(path).toString())
    return f"file:{os.path.realpath(full.removeprefix('file:'))}" if full.startswith("file:") else full


def _open_file_system(spark: SparkSession, table: str) -> tuple[Any, Any]:
    """The file system of a table and its path there."""
    context: Any = spark.sparkContext
    path = context._jvm.org.apache.hadoop.fs.Path(table)
    try:
        return path.getFileSystem(context._jsc.hadoopConfiguration()), path
    except (PySparkException, Py4JJavaError) as error:
        raise DataError(f"{table}: cannot be reached: {extract_reason(error)}") from None


def is_within(one: str, other: str) -> bool:
    """Whether a place is another one, or lies inside it."""
    return f"{one}/".startswith(f"{other}/")


def list_delta_columns(spark: SparkSession, table: str) -> list[str] | None:
    """The columns of the Delta table at a path; none where something else is there, None where nothing is."""
    if DeltaTable.isDeltaTable(spark, table):
        return list(spark.read.format("delta").load(table).columns)
    files, path = _open_file_system(spark, table)
    if not files.exists(path):
        return None
    names = {status.getPath().getName() for status in files.listStatus(path)}
    # A first write that was killed leaves files without a commit, but a folder for Delta's log.
    return None if not names or "_delta_log" in names else []


class ReplacedTable(NamedTuple):
    """The version that a commit made, and the rows that it wrote."""

    version: int
    rows: int


def replace_external_table(rows: DataFrame, table: str, metadata: Mapping[str, Any]) -> ReplacedTable:
    """Replace the Delta table by `rows` in one commit that carries `metadata`.

    Killed anywhere it leaves the version before.
    """
    writer = rows.write.format("delta").mode("overwrite").option("overwriteSchema", "true")
    writer.option("userMetadata", json.dumps(metadata)).save(table)
    commit = DeltaTable.forPath(rows.sparkSession, table).history(1).select("version", "operationMetrics").first()
    assert commit is not None
    return ReplacedTable(int(commit.version), int(commit.operationMetrics["numOutputRows"]))
