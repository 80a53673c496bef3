"""Mark duplicate rows within a log; the first row of each key is kept."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from star_ctr.conf.settings.logs import AttributeLog, ImpressionLog
from star_ctr.conf.settings.sources import Log

DUPLICATE = "duplicate"
"""The reason of a row that equals the first row of its key."""
CONFLICT = "used by two different rows"
"""Part of the reason of a row whose key belongs to a different row."""
HASH = "_star_ctr_hash"
"""The column with the hash of all values of a row."""
_GOOD = "_star_ctr_good"
_DAY = "_star_ctr_day"
_NUMBER = "_star_ctr_number"
_FIRST = "_star_ctr_first"


def list_key_columns(log: Log) -> list[str]:
    """Return the columns whose values together must be unique in a log."""
    match log:
        case ImpressionLog():
            return ["impression_id"]
        case AttributeLog():
            return ["key", "ds"]
        case _:
            return [HASH]


def mark_duplicates(rows: DataFrame, key: list[str], lookback_days: int | None) -> DataFrame:
    """Mark all rows of a key except the first one.

    The first row is the one on the earliest day; within a day, it is the one with the smallest row hash. The reason of
    any other row is `duplicate` if all its values are the same, else that two different rows have the same key.

    Args:
        rows: Rows with the columns `ds`, `reason` and `HASH`. Rows that already have a reason stay unchanged.
        key: The key columns, from `list_key_columns`.
        lookback_days: Compare a row only with the rows of the same day and of this number of days before it, marked or
            not. The row that is kept then does not depend on which days are read together. If None, compare all rows,
            as if they were of one day.

    Returns:
        The rows with the new reasons, without `HASH`.
    """
    # Rows with a reason are in separate groups and are never marked. Use columns instead of expressions, because each
    # window would evaluate and sort by an expression separately.
    rows = rows.withColumn(_GOOD, F.col("reason").isNull())
    day = F.coalesce(F.unix_date(F.try_to_timestamp("ds", F.lit("yyyy-MM-dd")).cast("date")), F.lit(0))
    rows = rows.withColumn(_DAY, F.lit(0) if lookback_days is None else day)
    group = Window.partitionBy(*key, _GOOD, *([] if lookback_days else [_DAY]))
    order = group.orderBy(_DAY, HASH)
    # With a lookback, the first row depends on the day. Without one, it is the first row of the group, which is cheaper
    # to find. Both windows can use the same order, so rows are sorted once.
    near = group.orderBy(_DAY).rangeBetween(-lookback_days, 0) if lookback_days else order
    rows = rows.withColumn(_NUMBER, F.row_number().over(order))
    first = F.first(F.struct(_NUMBER, HASH)) if not lookback_days else F.min(F.struct(_NUMBER, HASH))
    rows = rows.withColumn(_FIRST, first.over(near))
    is_extra = F.col(_GOOD) & (F.col(_NUMBER) > F.col(f"{_FIRST}.{_NUMBER}"))
    is_same = F.col(HASH) == F.col(f"{_FIRST}.{HASH}")
    names = [k for k in key if k != HASH]
    conflict = F.lit(f"{', '.join(names)}: {CONFLICT}") if names else F.lit(DUPLICATE)
    reason = F.when(is_extra & is_same, F.lit(DUPLICATE)).when(is_extra, conflict).otherwise(F.col("reason"))
    return rows.withColumn("reason", reason).drop(_GOOD, HASH, _DAY, _NUMBER, _FIRST)
