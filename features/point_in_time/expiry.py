"""Expiry of keys in the state of the history: a key that is not seen for too long loses its earlier events.

A key is a value of the columns of a group, or the user of a sequence. It is seen on the log days of its events. At a
cut, only its newest segment counts: the events since the last gap of more than `expire_days` between days on which it
was seen. If the gap between its last day and the day of the cut is longer, nothing counts.

Each part of the state, such as the sums of several days, records the first and the last log day of its events, and has
no gap in between. So the result does not depend on the order in which parts are merged.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

DAY = "_day"
"""Column with the day on which events became known, as days since 1970."""
FIRST, LAST = "_first", "_last"
"""Columns of a part of the state: the first and the last log day of its events, as days since 1970."""
SEGMENT = "_segment"
"""Column with the number of the segment of a key that a part belongs to. Parts of different days may share it."""


def _number_segments(parts: DataFrame, by: Seq[str], expire_days: int) -> DataFrame:
    """Add SEGMENT: consecutive numbers, the newest segment of each key last."""
    ordered = Window.partitionBy(*by).orderBy(FIRST, LAST)
    before = F.max(LAST).over(ordered.rowsBetween(Window.unboundedPreceding, -1))
    is_new = F.coalesce((F.col(FIRST) - before > expire_days).cast("int"), F.lit(0))
    starts = parts.withColumn("_starts", is_new)
    total = F.sum("_starts").over(ordered.rowsBetween(Window.unboundedPreceding, Window.currentRow))
    return starts.withColumn(SEGMENT, total).drop("_starts")


def _keep(parts: DataFrame, condition: Column) -> DataFrame:
    """Keep the rows that meet a condition. It may contain window functions, which Spark does not allow in a filter."""
    return parts.withColumn("_kept", condition).where("_kept").drop("_kept")


def select_unexpired(parts: DataFrame, by: Seq[str], cut_day: Column, expire_days: int) -> DataFrame:
    """Select the parts that count at a cut.

    Args:
        parts: Parts of the state with FIRST and LAST, known before the cut.
        by: The columns of the key and the cut.
        cut_day: The day of the cut, as days since 1970.
        expire_days: The largest number of days between two days of the same segment.

    Returns:
        The parts of the newest segments that have not expired.
    """
    numbered = _number_segments(parts, by, expire_days)
    key = Window.partitionBy(*by)
    is_newest = F.col(SEGMENT) == F.max(SEGMENT).over(key)
    return _keep(numbered, is_newest & (cut_day - F.max(LAST).over(key) <= expire_days)).drop(SEGMENT)


def split_segments(parts: DataFrame, by: Seq[str], end: Column, expire_days: int) -> DataFrame:
    """Drop the parts that no longer count at any cut from a day on, and number the segments of the others.

    Args:
        parts: All parts of some consecutive log days, with DAY, FIRST and LAST.
        by: The columns of the key.
        end: The day after the last of these log days, as days since 1970.
        expire_days: As for `select_unexpired`.

    Returns:
        The remaining parts. Those with the same key, DAY and SEGMENT can be merged. DAY is at least the last log day.
        An event may become known after its log day, because its time is later, and may then close a gap. So a key with
        such events keeps all its segments.
    """
    known = parts.withColumn(DAY, F.greatest(F.col(DAY), end - 1))
    is_later = F.col(DAY) >= end
    known = known.withColumn("_later", is_later)
    numbered = _number_segments(known, [*by, "_later"], expire_days)
    key = Window.partitionBy(*by)
    newest = F.max(F.when(~F.col("_later"), F.col(SEGMENT))).over(key)
    last = F.max(F.when(~F.col("_later"), F.col(LAST))).over(key)
    is_live = (F.col(SEGMENT) == newest) & (end - last <= expire_days)
    kept = _keep(numbered, F.max("_later").over(key) | is_live)
    return kept.withColumn(SEGMENT, F.when(F.col("_later"), F.col(FIRST)).otherwise(F.col(SEGMENT))).drop("_later")
