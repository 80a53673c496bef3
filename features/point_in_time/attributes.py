"""Attributes of users and items, as known on the day of a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from star_ctr.conf.contracts.dates import NO_DAY
from star_ctr.features.cleaning.log_columns import get_column


def join_attributes(
    rows: DataFrame,
    attributes: DataFrame,
    key: str,
    prefix: str,
    columns: Mapping[str, str],
    as_of: Literal["same_day", "day_before"],
) -> DataFrame:
    """Add columns of `attributes` to `rows`, null where no snapshot matches.

    A row sees the newest snapshot of its own day or earlier (`same_day`), or of an earlier day (`day_before`), never
    one of a later day.

    Args:
        rows: Rows with `key` and `ds`.
        attributes: Snapshots with `key` and `ds`, their day (`all` for a table without days, which applies to every
            row).
        key: The column of `rows` that holds the key.
        prefix: The name of the table; its `name_match_column` says whether a row's key matched.
        columns: The columns to add: name in the result -> name in `attributes`.
        as_of: The snapshot that a row sees.
    """
    next_day = F.lead("ds").over(Window.partitionBy("key").orderBy("ds"))
    known = attributes.select(
        F.col("key").alias("_star_ctr_key"),
        F.col("ds").alias("_star_ctr_from"),
        F.lit(True).alias("_star_ctr_known"),
        *(get_column(source).alias(target) for target, source in columns.items()),
        F.when(F.col("ds") != NO_DAY, next_day).alias("_star_ctr_to"),
    )
    first = F.col("_star_ctr_from") <= F.col("ds") if as_of == "same_day" else F.col("_star_ctr_from") < F.col("ds")
    last = F.col("ds") < F.col("_star_ctr_to") if as_of == "same_day" else F.col("ds") <= F.col("_star_ctr_to")
    holds = (F.col("_star_ctr_from") == NO_DAY) | (first & (F.col("_star_ctr_to").isNull() | last))
    joined = rows.join(known, (F.col(key) == F.col("_star_ctr_key")) & holds, "left")
    found = F.coalesce("_star_ctr_known", F.lit(False)).alias(name_match_column(prefix))
    return joined.select(*(get_column(c) for c in rows.columns), *(get_column(c) for c in columns), found)


def name_match_column(table: str) -> str:
    """Return the name of the column that says whether a row's key matched in an attribute table."""
    return f"found_{table}"
