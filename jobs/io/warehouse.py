"""Reading and writing the warehouse: whole partitions replaced in one Delta commit, and the ledger.

A write replaces the rows of its own key (`replaceWhere`) in one commit: run again it leaves the same
contents, and killed anywhere it leaves the version before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from deltalake import DeltaTable
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession

from star_ctr.conf.contracts.catalog import DATA_RUN, TABLES, Warehouse
from star_ctr.conf.contracts.pipeline import find_writer
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.delta_rows import make_any_condition, replace_rows

LEDGER = pa.schema(
    [
        ("run_id", pa.string()),
        ("ds", pa.string()),
        ("domain", pa.string()),
        ("step", pa.string()),
        ("rows_in", pa.int64()),
        ("rows_out", pa.int64()),
        ("reason", pa.string()),
    ]
)


class LedgerEntry(NamedTuple):
    """The rows of a day and domain into and out of a step, and why the difference was left out."""

    ds: str
    domain: str
    rows_in: int
    rows_out: int
    reason: str


class WarehouseTables:
    """The tables of one data set, through Spark."""

    def __init__(self, settings: Settings, spark: SparkSession) -> None:
        self.spark = spark
        self.warehouse = Warehouse(settings.paths)

    def exists(self, table: str) -> bool:
        """Whether the table has been written."""
        return bool(DeltaTable.is_deltatable(self.warehouse.table(table)))

    def require(self, table: str) -> None:
        """Raise `DataError` that names the step if the table is missing."""
        if not self.exists(table):
            step = "evaluate --against RUN" if table == "differences" else find_writer(table)
            raise DataError(f"{self.warehouse.table(table)}: no such table yet; run `star-ctr {step}` first")

    def read(self, table: str, version: int | None = None) -> DataFrame:
        """A table at one version (the newest if none is given); `DataError` that names the step if missing."""
        self.require(table)
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
                f"{self.warehouse.table(table)}: column `{fields[0] if fields else '?'}` has a different type "
                "in the table; move the table's folder away and run `star-ctr backfill`"
            ) from None
        return self.version(table)

    def version(self, table: str) -> int:
        """The newest version of a table."""
        return int(DeltaTable(self.warehouse.table(table)).version())

    def days(self, table: str) -> list[str]:
        """The days that a table holds, oldest first; read from the Delta log where days are partitions."""
        if "ds" not in TABLES[table].partitions:
            rows = self.read(table).select("ds").distinct().collect()
            return sorted(row.ds for row in rows if row.ds)
        return sorted({p["ds"] for p in self.partitions(table) if p["ds"]})

    def partitions(self, table: str) -> list[dict[str, str]]:
        """The partitions that hold files, from the Delta log; `DataError` that names the step if missing."""
        self.require(table)
        return DeltaTable(self.warehouse.table(table)).partitions()

    def write_ledger(self, step: str, entries: Iterable[LedgerEntry], where: str) -> None:
        """Replace the ledger rows of a step that precedes training.

        Args:
            step: The step.
            entries: ds, domain, rows in, rows out and reason of each row.
            where: SQL condition over `ds` for the days to replace.
        """
        rows = [(DATA_RUN, ds, domain, step, n_in, n_out, reason) for ds, domain, n_in, n_out, reason in entries]
        self.put("ledger", rows, LEDGER, f"run_id = '{DATA_RUN}' AND step = '{step}' AND ({where})")

    def write_run_ledger(self, step: str, entries: Iterable[tuple[str, str, str, int, int]]) -> None:
        """Replace the ledger's rows of a step of some runs; `entries`: run_id, ds, domain, rows_in, rows_out."""
        rows = [(run_id, ds, domain, step, n_in, n_out, "") for run_id, ds, domain, n_in, n_out in entries]
        if not rows:
            return
        runs = make_any_condition("run_id", sorted({r[0] for r in rows}))
        self.put("ledger", rows, LEDGER, f"step = '{step}' AND {runs}")

    def put(self, table: str, rows: Iterable[Sequence[Any]], schema: pa.Schema, where: str) -> None:
        """Replace the rows of a small table for which `where` holds by `rows`, without Spark."""
        replace_rows(self.warehouse.table(table), rows, schema, where, TABLES[table].partitions)


def collect_ledger_entries(counts: DataFrame) -> list[LedgerEntry]:
    """Collect ledger entries from a DataFrame with their columns: a few per day, domain and reason."""
    return [LedgerEntry(*row) for row in counts.select(*LedgerEntry._fields).collect()]


def repartition_by_day(rows: DataFrame) -> DataFrame:
    """Rows brought together by day for writing: a small day in one file, a large one dealt over many tasks."""
    return rows.hint("rebalance", "ds")


def make_in_condition(column: str, values: Sequence[str]) -> str:
    """SQL that holds where `column` is one of `values` (at least one is needed)."""
    return f"{column} IN ({', '.join(quote_spark_literal(v) for v in values)})"


def quote_spark_literal(value: str) -> str:
    """A SQL string literal."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
