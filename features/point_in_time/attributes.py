"""Point-in-time join of user and item attributes: each row gets the attributes as of its day."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from star_ctr.features.cleaning.first_seen import order_days
from star_ctr.features.cleaning.log_columns import get_column


def join_attributes(
    rows: DataFrame,
    attributes: DataFrame,
    key: str,
    prefix: str,
    columns: Mapping[str, str],
    as_of: Literal["same_day", "day_before"],
) -> DataFrame:
    """Add columns of `attributes` to `rows`.

    A row gets the newest snapshot of its own day or an earlier day (`same_day`), or of an earlier day only
    (`day_before`). It never gets a snapshot of a later day. A snapshot without a day is older than all others.

    Args:
        rows: Rows with `key` and `ds`.
        attributes: Snapshots with `key` and `ds`, the day of the snapshot; `all` for a snapshot without a day.
        key: The column of `rows` that holds the key.
        prefix: The name of the attribute table, used in the name of the match column.
        columns: The columns to add: name in the result -> name in `attributes`.
        as_of: The newest snapshot that a row may see.

    Returns:
        `rows` with the added columns, null if no snapshot matches, and the boolean column `name_match_column(prefix)`.
    """
    day = order_days(F.col("ds"))
    next_day = F.lead(day).over(Window.partitionBy("key").orderBy(day))
    snapshots = attributes.select(
        F.col("key").alias("_star_ctr_key"),
        day.alias("_star_ctr_from"),
        F.lit(True).alias("_star_ctr_known"),
        *(get_column(source).alias(target) for target, source in columns.items()),
        next_day.alias("_star_ctr_to"),
    )
    start, end = F.col("_star_ctr_from"), F.col("_star_ctr_to")
    has_begun = (start == "") | (start <= F.col("ds") if as_of == "same_day" else start < F.col("ds"))
    is_newest = F.col("ds") < end if as_of == "same_day" else F.col("ds") <= end
    is_visible = has_begun & (end.isNull() | is_newest)
    joined = rows.join(snapshots, (F.col(key) == F.col("_star_ctr_key")) & is_visible, "left")
    has_match = F.coalesce("_star_ctr_known", F.lit(False)).alias(name_match_column(prefix))
    return joined.select(*(get_column(c) for c in rows.columns), *(get_column(c) for c in columns), has_match)


def name_match_column(table: str) -> str:
    """Return the name of the boolean column for whether the key of a row has a match in an attribute table."""
    return f"found_{table}"
