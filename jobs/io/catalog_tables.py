"""Read tables of Spark catalogs at a fixed snapshot."""

from __future__ import annotations

from typing import NamedTuple

from pyspark.sql import DataFrame, SparkSession

from star_ctr.conf.errors import DataError
from star_ctr.jobs.io.external_errors import describe_external_error
from star_ctr.jobs.io.session import SPARK_ERRORS


class CatalogTable(NamedTuple):
    """The rows of a table of a catalog.

    Attributes:
        rows: The rows.
        snapshot: The Delta version or the Iceberg snapshot that is read; None for formats without snapshots.
    """

    rows: DataFrame
    snapshot: str | None


def read_catalog_table(spark: SparkSession, table: str, key: str) -> CatalogTable:
    """Read the newest snapshot of a table.

    Args:
        spark: The Spark session, whose configuration declares the catalog.
        table: The name, such as `catalog.schema.table`.
        key: The settings key, for messages.

    Returns:
        The rows. If the format of the table has snapshots, later changes of the table do not affect them.

    Raises:
        DataError: The table does not exist or cannot be read.
    """
    try:
        spark.catalog.refreshTable(table)  # Spark caches the list of files of a table
        rows = spark.table(table)
        match _find_provider(spark, table):
            case "delta":
                version = spark.sql(f"DESCRIBE HISTORY {table} LIMIT 1").collect()[0].version
                return CatalogTable(spark.read.option("versionAsOf", version).table(table), f"version {version}")
            case "iceberg":
                # The newest snapshot may belong to another branch, or may have been rolled back.
                main = spark.sql(f"SELECT snapshot_id FROM {table}.refs WHERE name = 'main'").first()
                if main is not None:  # a new table has no snapshot
                    snapshot = main.snapshot_id
                    return CatalogTable(spark.read.option("snapshot-id", snapshot).table(table), f"snapshot {snapshot}")
    except SPARK_ERRORS as error:
        if "TABLE_OR_VIEW_NOT_FOUND" in str(error):
            raise DataError(
                f"{key}: no table `{table}` in the catalogs of Spark; check the name, and declare the catalog in "
                "spark.conf"
            ) from None
        raise DataError(f"{key}: `{table}` cannot be read: {describe_external_error(error)}") from None
    return CatalogTable(rows, None)


def _find_provider(spark: SparkSession, table: str) -> str:
    """Return the format of a table in lower case; empty for a view."""
    rows = spark.sql(f"DESCRIBE TABLE EXTENDED {table}").where("col_name = 'Provider'").collect()
    return rows[-1].data_type.lower() if rows else ""
