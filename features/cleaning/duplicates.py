"""Mark duplicate rows within a log; the first row of each key is kept."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from star_ctr.conf.settings.logs import AttributeLog, ImpressionLog, Log

DUPLICATE = "duplicate"
HASH = "_star_ctr_hash"
"""The hash of all values of a row."""
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


def mark_duplicates(rows: DataFrame, key: list[str], reach: int | None) -> DataFrame:
    """Mark all rows of a key except the first: as `duplicate` if the whole row is the same, else as a conflict.

    A row is compared only with the rows of its own day and of the `reach` days before, so the row that is kept does not
    depend on which days are read together. If `reach` is None, all rows are compared.
    """
    # Rows with a reason do not take part: each is alone in its group. These are columns and not
    # expressions, which each window would compute and sort by separately.
    rows = rows.withColumn(_GOOD, F.col("reason").isNull())
    day = F.coalesce(F.unix_date(F.try_to_timestamp("ds", F.lit("yyyy-MM-dd")).cast("date")), F.lit(0))
    rows = rows.withColumn(_DAY, F.lit(0) if reach is None else day)
    group = Window.partitionBy(*key, _GOOD, *([] if reach else [_DAY]))
    order = group.orderBy(_DAY, HASH)
    # With a reach, each day has its own first row. Without one, the first row of the group is enough, which is cheaper
    # to find. Both windows can use one order, so rows are sorted once.
    near = group.orderBy(_DAY).rangeBetween(-reach, 0) if reach else order
    rows = rows.withColumn(_NUMBER, F.row_number().over(order))
    first = F.first(F.struct(_NUMBER, HASH)) if not reach else F.min(F.struct(_NUMBER, HASH))
    rows = rows.withColumn(_FIRST, first.over(near))
    extra = F.col(_GOOD) & (F.col(_NUMBER) > F.col(f"{_FIRST}.{_NUMBER}"))
    same = F.col(HASH) == F.col(f"{_FIRST}.{HASH}")
    names = [k for k in key if k != HASH]
    conflict = F.lit(f"{', '.join(names)}: used by two different rows") if names else F.lit(DUPLICATE)
    reason = F.when(extra & same, F.lit(DUPLICATE)).when(extra, conflict).otherwise(F.col("reason"))
    return rows.withColumn("reason", reason).drop(_GOOD, HASH, _DAY, _NUMBER, _FIRST)
