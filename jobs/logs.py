"""Reading the declared logs: which files, of which days, in which format."""

from __future__ import annotations

import datetime as dt
import re
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

_DAY_MARKS = {"{ds}": r"(?P<ds>\d{4}-\d{2}-\d{2})", "{yyyymmdd}": r"(?P<ds>\d{8})"}


def location(settings: Settings, log: Log) -> str:
    """The log's glob, below `paths.logs` unless it is absolute or a URL."""
    if log.path.startswith("/") or "://" in log.path:
        return log.path
    return f"{settings.paths.logs.rstrip('/')}/{log.path}"


def by_day(log: Log) -> bool:
    """Whether the log's path names the day of its files."""
    return any(mark in log.path for mark in _DAY_MARKS)


def of_day(glob: str, ds: str) -> str:
    """The glob of one day's files."""
    return glob.replace("{ds}", ds).replace("{yyyymmdd}", ds.replace("-", ""))


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
    wild, pattern = glob, re.escape(glob).replace(r"\*", "[^/]*")
    for mark, group in _DAY_MARKS.items():
        wild = wild.replace(mark, "*")
        pattern = pattern.replace(re.escape(mark), group, 1).replace(re.escape(mark), "[0-9-]+")
    days = set()
    for file in files(spark, wild):
        match = re.search(pattern + "$", file)
        if match:
            text = match["ds"]
            days.add(text if "-" in text else f"{text[:4]}-{text[4:6]}-{text[6:]}")
    return sorted(days)


def read(settings: Settings, spark: SparkSession, name: str, days: list[str] | None) -> DataFrame | None:
    """The raw rows of log `name`, of the given days where its path tells days; None where no file is there."""
    log = settings.logs.declared()[name]
    glob = location(settings, log)
    if not by_day(log):
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


def window(settings: Settings, ds: str) -> list[str]:
    """The days of the training window and `ds` itself, oldest first."""
    last = dt.date.fromisoformat(ds)
    return [(last - dt.timedelta(days=k)).isoformat() for k in range(settings.window.days, -1, -1)]
