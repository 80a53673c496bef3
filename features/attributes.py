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
    own, since, until = _unused(rows.columns, "_key", "_from", "_to")
    known = attributes.select(
        F.col("key").alias(own),
        F.col("ds").alias(since),
        *(F.col(f"`{c}`").alias(f"{prefix}_{c}") for c in columns),
        F.when(F.col("ds") != NO_DAY, next_day).alias(until),
    )
    first = F.col(since) <= F.col("ds") if as_of == "same_day" else F.col(since) < F.col("ds")
    last = F.col("ds") < F.col(until) if as_of == "same_day" else F.col("ds") <= F.col(until)
    holds = (F.col(since) == NO_DAY) | (first & (F.col(until).isNull() | last))
    return rows.join(known, (F.col(key) == F.col(own)) & holds, "left").drop(own, since, until)


def _unused(columns: Sequence[str], *names: str) -> list[str]:
    """`names`, each with as many underscores before it as it takes to be none of `columns` (a log may have any)."""
    taken = {column.lower() for column in columns}
    found = []
    for name in names:
        while name in taken:
            name = f"_{name}"
        found.append(name)
    return found
