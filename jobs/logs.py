"""Reading the declared logs: which files, of which days, in which format."""

from __future__ import annotations

from typing import Any

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from star_ctr.conf.errors import DataError
from star_ctr.conf.logs import Log
from star_ctr.conf.settings import Settings
from star_ctr.features.cleaning import unioned
from star_ctr.features.columns import CORRUPT, FILE_DAY
from star_ctr.jobs.log_files import dated, day_of, location, of_day, wild


def files(spark: SparkSession, glob: str) -> list[str]:
    """The files or folders that a glob names, sorted (any file system that Spark knows)."""
    context: Any = spark.sparkContext
    path = context._jvm.org.apache.hadoop.fs.Path(glob)
    configuration = context._jsc.hadoopConfiguration()
    found = path.getFileSystem(configuration).globStatus(path)
    return sorted(status.getPath().toString() for status in found or [])


def days_of_files(settings: Settings, spark: SparkSession, log: Log) -> list[str]:
    """The days for which a log with a day in its path has files, oldest first."""
    glob = location(settings, log)
    return sorted({day for file in files(spark, wild(glob)) if (day := day_of(glob, file))})


def read(settings: Settings, spark: SparkSession, name: str, days: list[str] | None) -> DataFrame | None:
    """The raw rows of log `name`, of the given days where its path tells days; None where no file is there."""
    log = settings.logs.declared()[name]
    glob = location(settings, log)
    if not dated(log):
        if not files(spark, glob):
            raise DataError(f"logs.{name}.path: no file matches {glob}; is paths.logs ({settings.paths.logs}) right?")
        return _read_glob(spark, log, glob)
    there = days_of_files(settings, spark, log)
    if not there:
        raise DataError(
            f"logs.{name}.path: no file matches {glob} for any day; is paths.logs ({settings.paths.logs}) right?"
        )
    frames = [
        _read_glob(spark, log, of_day(glob, day)).withColumn(FILE_DAY, F.lit(day))
        for day in there
        if days is None or day in days
    ]
    return unioned(frames) if frames else None


def _read_glob(spark: SparkSession, log: Log, glob: str) -> DataFrame:
    try:
        if log.format == "csv":
            return _read_csv(spark, log, glob)
        if log.format == "json":
            return spark.read.option("primitivesAsString", "false").json(glob)
        return spark.read.format(log.format).load(glob)
    except AnalysisException as error:
        raise DataError(f"{glob}: cannot be read as {log.format}: {str(error).splitlines()[0]}") from None


def _read_csv(spark: SparkSession, log: Log, glob: str) -> DataFrame:
    # A schema with a place for unreadable lines: without one, Spark drops the surplus fields in silence.
    reader = spark.read.option("header", "true").option("sep", log.separator).option("escape", '"')
    header = reader.csv(files(spark, glob)[0]).columns
    schema = StructType([StructField(name, StringType()) for name in (*header, CORRUPT)])
    return reader.schema(schema).option("columnNameOfCorruptRecord", CORRUPT).option("enforceSchema", "false").csv(glob)
