"""Weights of impressions in training: check them at ingest, and read them from the table."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, StringType

from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.conf.settings.sources import Log
from star_ctr.features.cleaning.column_conversion import read_number
from star_ctr.features.cleaning.log_columns import name_table_column
from star_ctr.features.cleaning.text import NESTED, to_number

_MAX_WEIGHT = 1e12
MISSING_WEIGHT = "missing weight"
INVALID_WEIGHT = "the weight is not a number from 0 to 1e12"
"""Reasons why a row has no valid weight."""


def check_weight(log: Log, column: str, text: Column, kind: DataType) -> Column:
    """Check that the values of a column can be weights.

    Args:
        log: The log of the column.
        column: The name of the column in the log.
        text: The canonical text of the column, from `to_text`.
        kind: The data type of the column.

    Returns:
        A text column with the reason why a value cannot be a weight; null if it can be one.

    Raises:
        DataError: The column does not contain scalar values.
    """
    if isinstance(kind, (*NESTED, ArrayType)):
        raise DataError(
            f"logs.impressions.weight: `{column}` is a {kind.simpleString()}; choose a column of scalar values"
        )
    number = to_number(text, log.decimal if isinstance(kind, StringType) else ".")
    is_missing = F.coalesce(F.trim(text) == "", F.lit(True))
    is_weight = F.coalesce(number.between(0, _MAX_WEIGHT), F.lit(False))  # NaN is larger than any number
    missing, invalid = (F.lit(f"{column}: {reason}") for reason in (MISSING_WEIGHT, INVALID_WEIGHT))
    return F.when(is_missing, missing).when(~is_weight, invalid)


def add_weights(settings: Settings, impressions: DataFrame) -> DataFrame:
    """Add the column `weight` to rows of the table `impressions`, if the settings declare a weight."""
    column = settings.logs.impressions.weight
    if column is None:
        return impressions
    return impressions.withColumn(
        "weight", read_number(impressions, name_table_column(settings, "impressions", column))
    )
