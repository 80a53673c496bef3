"""Read and write the tables of the warehouse, including the ledger.

A write replaces the rows that match a condition, for example those of a day, in one Delta commit (`replaceWhere`). If
it runs again, the table has the same rows. If it is killed, the previous version remains.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from deltalake import DeltaTable, Schema
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession

from star_ctr.conf.contracts.catalog import SHARED_RUN_ID, TABLES, Warehouse
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.features.cleaning.log_columns import get_column
from star_ctr.jobs.io.column_comments import describe_columns
from star_ctr.jobs.io.delta_rows import create_table, describe_schema, make_any_condition, replace_rows
from star_ctr.jobs.io.table_reader import explain_missing

LEDGER_SCHEMA = describe_schema(
    "ledger",
    [
        ("run_id", pa.string()),
        ("ds", pa.string()),
        ("domain", pa.string()),
        ("step", pa.string()),
        ("rows_in", pa.int64()),
        ("rows_out", pa.int64()),
        ("reason", pa.string()),
    ],
)
"""Schema of `ledger`."""


class RunEntry(NamedTuple):
    """The number of rows into and out of a step of a run.

    Attributes:
        run_id: The run.
        ds: The day.
        domain: The domain.
        rows_in: The number of rows that the step read.
        rows_out: The number of rows that it used or wrote.
        reason: The reason why the other rows were left out; empty if none were.
    """

    run_id: str
    ds: str
    domain: str
    rows_in: int
    rows_out: int
    reason: str = ""


class LedgerEntry(NamedTuple):
    """The number of rows into and out of a step.

    Attributes:
        ds: The day.
        domain: The domain; `all` for logs without domains.
        rows_in: The number of rows that the step read.
        rows_out: The number of rows that it wrote.
        reason: The reason why the other rows were left out; empty if none were.
    """

    ds: str
    domain: str
    rows_in: int
    rows_out: int
    reason: str


class WarehouseTables:
    """The tables of one data set, read and written with Spark.

    Args:
        settings: The settings of the data set; `paths` locates the tables.
        spark: The Spark session.
    """

    def __init__(self, settings: Settings, spark: SparkSession) -> None:
        self.settings = settings
        self.spark = spark
        self.warehouse = Warehouse(settings.paths)

    def exists(self, table: str) -> bool:
        """Return whether the table has been written."""
        return bool(DeltaTable.is_deltatable(self.warehouse.table(table)))

    def require(self, table: str) -> None:
        """Raise `DataError` if the table does not exist. The message contains the step that writes it."""
        if not self.exists(table):
            raise DataError(explain_missing(self.warehouse.table(table), table))

    def read(self, table: str, version: int | None = None) -> DataFrame:
        """Read a table at a version, by default the newest; raises `DataError` if it does not exist (see `require`)."""
        self.require(table)
        reader = self.spark.read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        return reader.load(self.warehouse.table(table))

    def replace(self, table: str, rows: DataFrame, where: str, metadata: str | None = None, **options: Any) -> int:
        """Replace the rows that match a condition in one commit.

        Args:
            table: The name of the table.
            rows: The new rows. All of them must match `where`. Additional columns are added to the table.
            where: A condition in Spark SQL.
            metadata: User metadata of the commit.
            **options: More options of the Delta writer, for example `maxRecordsPerFile`.

        Returns:
            The new version of the table.

        Raises:
            DataError: A column has another type in the table.
            AnalysisException: Spark rejects the write for another reason.
        """
        rows = self._add_comments(table, rows)
        if not self.exists(table):
            self._create(table, rows)
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
                f"{self.warehouse.table(table)}: column `{fields[0] if fields else '?'}` has another type in the table "
                "than in the new rows; move the folder of the table away and run `star-ctr backfill`"
            ) from None
        return self.get_version(table)

    def _add_comments(self, table: str, rows: DataFrame) -> DataFrame:
        """Add the meaning of each column as its comment. Delta keeps the comment of a column that exists already."""
        comments = describe_columns(self.settings, table)
        columns = {name: get_column(name) for name in rows.columns}
        described = {n: columns[n].alias(n, metadata={"comment": comments[n]}) for n in columns if n in comments}
        return rows.select(*(columns | described).values())

    def _create(self, table: str, rows: DataFrame) -> None:
        """Create an empty table with the columns of `rows`. A write of Spark could not give it a comment."""
        schema = json.loads(rows.schema.json(), object_hook=_make_nullable)
        known = TABLES[table]
        create_table(self.warehouse.table(table), Schema.from_json(json.dumps(schema)), known.about, known.partitions)

    def get_version(self, table: str) -> int:
        """Return the newest version of a table."""
        return int(DeltaTable(self.warehouse.table(table)).version())

    def list_days(self, table: str) -> list[str]:
        """Return the days of a table, oldest first.

        If the table is partitioned by day, only the Delta log is read.
        """
        if "ds" not in TABLES[table].partitions:
            rows = self.read(table).select("ds").distinct().collect()
            return sorted(row.ds for row in rows if row.ds)
        return sorted({p["ds"] for p in self.list_partitions(table) if p["ds"]})

    def get_newest_day(self, table: str) -> str:
        """Return the newest day of a table; raises `DataError` if the table has no days."""
        if not (days := self.list_days(table)):
            raise DataError(f"{self.warehouse.table(table)}: the table is empty; run the steps that write it first")
        return days[-1]

    def list_partitions(self, table: str) -> list[dict[str, str]]:
        """Return the partitions that have live files, from the Delta log; raises `DataError` if there is no table."""
        self.require(table)
        return DeltaTable(self.warehouse.table(table)).partitions()

    def write_ledger(self, step: str, entries: Iterable[LedgerEntry], where: str) -> None:
        """Replace the ledger entries of a step before training, which all runs share.

        Args:
            step: The step.
            entries: The new entries.
            where: An SQL condition on `ds` that selects the days to replace.
        """
        rows = [(SHARED_RUN_ID, ds, domain, step, n_in, n_out, reason) for ds, domain, n_in, n_out, reason in entries]
        self.replace_rows(
            "ledger", rows, LEDGER_SCHEMA, f"run_id = '{SHARED_RUN_ID}' AND step = '{step}' AND ({where})"
        )

    def write_run_ledger(self, step: str, entries: Iterable[RunEntry]) -> None:
        """Replace the ledger entries of a step for the runs in `entries`.

        Args:
            step: The step.
            entries: The entries.
        """
        rows = [(e.run_id, e.ds, e.domain, step, e.rows_in, e.rows_out, e.reason) for e in entries]
        if not rows:
            return
        runs = make_any_condition("run_id", sorted({r[0] for r in rows}))
        self.replace_rows("ledger", rows, LEDGER_SCHEMA, f"step = '{step}' AND {runs}")

    def replace_rows(self, table: str, rows: Iterable[Sequence[Any]], schema: pa.Schema, where: str) -> None:
        """Replace the rows of a small table that match a condition, without Spark; see `replace_rows`."""
        replace_rows(self.warehouse.table(table), rows, schema, where, TABLES[table].partitions)


def _make_nullable(part: dict[str, Any]) -> dict[str, Any]:
    """Return a part of a JSON schema in which all values may be null, as in each table that Spark writes."""
    return {key: True if key in ("nullable", "containsNull", "valueContainsNull") else v for key, v in part.items()}


def collect_ledger_entries(counts: DataFrame) -> list[LedgerEntry]:
    """Collect ledger entries from a DataFrame with the columns of `LedgerEntry`."""
    return [LedgerEntry(*row) for row in counts.select(*LedgerEntry._fields).collect()]


def repartition_by_day(rows: DataFrame) -> DataFrame:
    """Repartition rows by day for writing: a small day goes to one file, a large day is split over many tasks."""
    return rows.hint("rebalance", "ds")


def make_in_condition(column: str, values: Sequence[str]) -> str:
    """Return a Spark SQL condition that `column` is one of `values`, which must not be empty."""
    return f"{column} IN ({', '.join(quote_spark_literal(v) for v in values)})"


def quote_spark_literal(value: str) -> str:
    """Quote a string for Spark SQL. For `delta_rows`, which escapes differently, use its `quote_literal`."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
