"""Attributes of users and items, as known on the day of a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from star_ctr.conf.days import NO_DAY
from star_ctr.features.columns import own


def join_attributes(
    rows: DataFrame,
    attributes: DataFrame,
    key: str,
    prefix: str,
    columns: Mapping[str, str],
    as_of: Literal["same_day", "day_before"],
) -> DataFrame:
    """`rows` with columns of `attributes` added, null where nothing was known.

    Of several snapshots a row sees the newest of its own day or before (`same_day`), or of a day before
    (`day_before`): never one of a later day.

    Args:
        rows: Rows with `key` and `ds`.
        attributes: Snapshots with `key` and `ds`, their day (`all` for a table without days, which holds for every
            row).
        key: The column of `rows` that holds the key.
        prefix: The name of the table; `known_column` of it says whether a row found its key in it.
        columns: The columns to add: name in the result -> name in `attributes`.
        as_of: Which snapshot a row sees.
    """
    next_day = F.lead("ds").over(Window.partitionBy("key").orderBy("ds"))
    known = attributes.select(
        F.col("key").alias("_star_ctr_key"),
        F.col("ds").alias("_star_ctr_from"),
        F.lit(True).alias("_star_ctr_known"),
        *(own(source).alias(target) for target, source in columns.items()),
        F.when(F.col("ds") != NO_DAY, next_day).alias("_star_ctr_to"),
    )
    first = F.col("_star_ctr_from") <= F.col("ds") if as_of == "same_day" else F.col("_star_ctr_from") < F.col("ds")
    last = F.col("ds") < F.col("_star_ctr_to") if as_of == "same_day" else F.col("ds") <= F.col("_star_ctr_to")
    holds = (F.col("_star_ctr_from") == NO_DAY) | (first & (F.col("_star_ctr_to").isNull() | last))
    joined = rows.join(known, (F.col(key) == F.col("_star_ctr_key")) & holds, "left")
    found = F.coalesce("_star_ctr_known", F.lit(False)).alias(known_column(prefix))
    return joined.select(*(own(c) for c in rows.columns), *(own(c) for c in columns), found)


def known_column(table: str) -> str:
    """The column that says whether a row found its key in an attribute table."""
    return f"found_{table}"
