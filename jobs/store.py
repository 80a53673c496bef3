"""Reading and writing the warehouse: whole partitions replaced in one Delta commit, and the ledger.

A write replaces the rows of its own key (`replaceWhere`) in one commit: run again it leaves the same
contents, and killed anywhere it leaves the version before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from delta.tables import DeltaTable
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import LongType, StringType, StructField, StructType

from star_ctr.conf.errors import DataError
from star_ctr.conf.settings import Settings
from star_ctr.conf.tables import DATA_RUN, TABLES, Warehouse

LEDGER = StructType(
    [
        StructField("run_id", StringType()),
        StructField("ds", StringType()),
        StructField("domain", StringType()),
        StructField("step", StringType()),
        StructField("rows_in", LongType()),
        StructField("rows_out", LongType()),
        StructField("reason", StringType()),
    ]
)


class Store:
    """The tables of one data set, through Spark."""

    def __init__(self, settings: Settings, spark: SparkSession) -> None:
        self.spark = spark
        self.warehouse = Warehouse(settings.paths)

    def exists(self, table: str) -> bool:
        """Whether the table has been written."""
        return DeltaTable.isDeltaTable(self.spark, self.warehouse.table(table))

    def read(self, table: str, version: int | None = None) -> DataFrame:
        """A table at one version (the newest if none is given); `DataError` that names the step if missing."""
        if not self.exists(table):
            step = "ingest" if TABLES[table].name in _INGESTED else _MADE_BY.get(table, "nightly")
            raise DataError(f"{self.warehouse.table(table)}: no such table yet; run `star-ctr {step}` first")
        reader = self.spark.read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        return reader.load(self.warehouse.table(table))

    def replace(self, table: str, rows: DataFrame, where: str, metadata: str | None = None, **options: Any) -> int:
        """Replace the rows that `where` holds for by `rows`, in one commit; returns the new version."""
        writer = (
            rows.write.format("delta")
            .mode("overwrite")
            .option("replaceWhere", where)
            .option("mergeSchema", "true")
            .partitionBy(*TABLES[table].partitions)
        )
        if metadata is not None:
            writer = writer.option("userMetadata", metadata)
        for key, value in options.items():
            writer = writer.option(key, value)
        try:
            writer.save(self.warehouse.table(table))
        except AnalysisException as error:
            if "DELTA_FAILED_TO_MERGE_FIELDS" not in str(error):
                raise
            fields = re.findall(r"'([^']+)'", str(error).splitlines()[0])
            raise DataError(
                f"{self.warehouse.table(table)}: column `{fields[0] if fields else '?'}` has another type than in "
                "the table; move the table's folder away and run the nights again (star-ctr backfill)"
            ) from None
        return self.version(table)

    def version(self, table: str) -> int:
        """The newest version of a table."""
        return newest_version(self.spark, self.warehouse.table(table))

    def days(self, table: str) -> list[str]:
        """The days that a table holds, oldest first."""
        rows = self.read(table).select("ds").distinct().collect()
        return sorted(row.ds for row in rows if row.ds)

    def write_ledger(self, step: str, entries: DataFrame, where: str) -> None:
        """Replace the ledger rows of a step that precedes training.

        Args:
            step: The step.
            entries: ds, domain, rows_in, rows_out, reason.
            where: SQL predicate over `ds` for the days to replace.
        """
        rows = entries.select(
            F.lit(DATA_RUN).alias("run_id"),
            "ds",
            "domain",
            F.lit(step).alias("step"),
            F.col("rows_in").cast("long").alias("rows_in"),
            F.col("rows_out").cast("long").alias("rows_out"),
            "reason",
        )
        self.replace("ledger", rows.coalesce(1), f"run_id = '{DATA_RUN}' AND step = '{step}' AND ({where})")

    def write_run_ledger(self, step: str, entries: Iterable[tuple[str, str, str, int, int]]) -> None:
        """Replace the ledger's rows of a step of some runs; `entries`: run_id, ds, domain, rows_in, rows_out."""
        rows = [(run_id, ds, domain, step, n_in, n_out, "") for run_id, ds, domain, n_in, n_out in entries]
        where = f"step = '{step}' AND {among('run_id', sorted({r[0] for r in rows}))}"
        self.replace("ledger", self.spark.createDataFrame(rows, LEDGER).coalesce(1), where)

    def ledger_rows(self, rows: Iterable[tuple[str, str, int, int, str]]) -> DataFrame:
        """A frame of ledger entries from (ds, domain, rows_in, rows_out, reason)."""
        schema = StructType([f for f in LEDGER.fields if f.name not in ("run_id", "step")])
        return self.spark.createDataFrame(list(rows), schema)


def newest_version(spark: SparkSession, path: str) -> int:
    """The newest version of the Delta table at a path."""
    return int(DeltaTable.forPath(spark, path).history(1).select("version").collect()[0].version)


def by_day(rows: DataFrame) -> DataFrame:
    """Rows brought together by day for writing: a small day in one file, a large one dealt over many tasks."""
    return rows.hint("rebalance", "ds")


_INGESTED = ("impressions", "clicks", "behaviours", "users", "items", "quarantine")
_MADE_BY = {
    "features": "features",
    "split": "split",
    "vocabularies": "split",
    "runs": "train",
    "scores": "score",
    "metrics": "evaluate",
    "differences": "evaluate --against RUN",
    "ledger": "ingest",
}


def among(column: str, values: Sequence[str]) -> str:
    """SQL that holds where `column` is one of `values` (at least one is needed)."""
    return f"{column} IN ({', '.join(quoted(v) for v in values)})"


def quoted(value: str) -> str:
    """A SQL string literal."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
