"""Register the tables of the warehouse in a catalog of Spark, so that SQL queries find them by name.

The catalog refers to the Delta tables at their paths (external tables). It contains no data, so a night does not depend
on it: if it cannot be reached, a warning is logged, and the next step registers the tables.
"""

from __future__ import annotations

import logging
import re

from pyspark.sql import SparkSession

from star_ctr.conf.contracts.catalog import TABLES
from star_ctr.conf.errors import ConfigError
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.external_errors import describe_external_error
from star_ctr.jobs.io.external_tables import resolve_address
from star_ctr.jobs.io.warehouse import WarehouseTables, quote_spark_literal

_NO_DATABASE = re.compile(
    r"\[(CATALOG_NOT_FOUND|MISSING_CATALOG_ABILITY|REQUIRES_SINGLE_PART_NAMESPACE)|[Cc]annot find catalog plugin|"
    r"does not implement CatalogPlugin"
)
"""Errors because of which the database can never exist."""
_logger = logging.getLogger(__name__)


def create_database(settings: Settings, spark: SparkSession) -> None:
    """Create the database in `catalog`, unless it exists. Does nothing without this section.

    Args:
        settings: The settings of the data set.
        spark: The Spark session.

    Raises:
        ConfigError: Spark has no such catalog, or the catalog has no databases.
    """
    if (catalog := settings.catalog) is None:
        return
    try:
        spark.sql(f"CREATE DATABASE IF NOT EXISTS {catalog.path}")
    except Exception as error:  # whatever the catalog does, it must not fail a night
        if _NO_DATABASE.search(str(error)):
            raise ConfigError(
                f"catalog.name: Spark cannot create a database in the catalog `{catalog.name}` ({_describe(error)}); "
                f"set spark.sql.catalog.{catalog.name} in spark.conf, or use spark_catalog"
            ) from None
        _warn(f"catalog.database: {catalog.path} could not be created", error)


def register_tables(settings: Settings, spark: SparkSession) -> list[str]:
    """Register all tables that exist and are not registered yet in `catalog`. Does nothing without this section.

    Args:
        settings: The settings of the data set.
        spark: The Spark session.

    Returns:
        The names of the tables that are registered now. Tables are missing if the catalog cannot be reached, or if it
        has another table of the same name; a warning is then logged.
    """
    if (catalog := settings.catalog) is None:
        return []
    try:
        rows = spark.sql(f"SHOW TABLES IN {catalog.path}").collect()
        registered = {row.tableName for row in rows if not row.isTemporary}
    except Exception as error:
        _warn(f"catalog: the tables of {catalog.path} could not be listed; the next step tries again", error)
        return []
    store = WarehouseTables(settings, spark)
    return [
        name
        for name in TABLES
        if store.exists(name) and _register(spark, catalog.path, name, store.warehouse.table(name), name in registered)
    ]


_verified: set[tuple[str, str, str]] = set()
"""Application, name and path of registered tables that this process has verified, which takes a query per table."""


def _register(spark: SparkSession, database: str, name: str, path: str, is_registered: bool) -> bool:
    """Register a table, or verify that it is registered; returns whether it is."""
    table, key = f"{database}.`{name}`", (str(spark.sparkContext.applicationId), f"{database}.`{name}`", path)
    if is_registered and key in _verified:
        return True
    try:
        address = resolve_address(spark, path)
        if not is_registered:
            comment, location = quote_spark_literal(TABLES[name].about), quote_spark_literal(address)
            spark.sql(f"CREATE TABLE IF NOT EXISTS {table} USING delta COMMENT {comment} LOCATION {location}")
        elif (other := _find_location(spark, table)) != address:
            _logger.warning(
                "catalog.database: %s is another table, at %s; drop it with `DROP TABLE %s`, or set another database",
                table, other, table,
            )  # fmt: skip
            return False
    except Exception as error:
        _warn(f"catalog: {table} could not be registered; the next step tries again", error)
        return False
    _verified.add(key)
    return True


def _find_location(spark: SparkSession, table: str) -> str:
    """Return the address of a registered table; empty if it has none."""
    rows = spark.sql(f"DESCRIBE TABLE EXTENDED {table}").collect()
    location = next((row.data_type for row in rows if row.col_name == "Location"), "")
    return resolve_address(spark, location) if location else ""


def _warn(message: str, error: Exception) -> None:
    """Log a warning, with the reason in one sentence, and the traceback in the log file."""
    _logger.warning("%s: %s", message, _describe(error))
    _logger.debug("%s", message, exc_info=error)


def _describe(error: Exception) -> str:
    return describe_external_error(error) or str(error)
