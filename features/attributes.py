"""Attributes of users and items, as known on the day of a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from star_ctr.conf.days import NO_DAY


def join_attributes(
    rows: DataFrame,
    attributes: DataFrame,
    key: str,
    prefix: str,
    columns: Sequence[str],
    as_of: Literal["same_day", "day_before"],
) -> DataFrame:
    """`rows` with `columns` of `attributes` added as `<prefix>_<column>`, null where nothing was known.

    `rows` has `key` and `ds`; `attributes` has `key` and `ds`, the day of the snapshot (`all` for a table
    without days, which then holds for every row). Of several snapshots a row sees the newest of its own day
    or before (`same_day`), or of a day before (`day_before`): never one of a later day.
    """
    next_day = F.lead("ds").over(Window.partitionBy("key").orderBy("ds"))
    known = attributes.select(
        F.col("key").alias("_key"),
        F.col("ds").alias("_from"),
        *(F.col(f"`{c}`").alias(f"{prefix}_{c}") for c in columns),
        F.when(F.col("ds") != NO_DAY, next_day).alias("_to"),
    )
    first = F.col("_from") <= F.col("ds") if as_of == "same_day" else F.col("_from") < F.col("ds")
    last = F.col("ds") < F.col("_to") if as_of == "same_day" else F.col("ds") <= F.col("_to")
    holds = (F.col("_from") == NO_DAY) | (first & (F.col("_to").isNull() | last))
    return rows.join(known, (F.col(key) == F.col("_key")) & holds, "left").drop("_key", "_from", "_to")
