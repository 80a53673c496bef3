"""New rows of a log without days: those that no earlier night has seen."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from star_ctr.conf.contracts.dates import BEFORE_FIRST_DAY, NO_DAY
from star_ctr.features.cleaning.log_columns import get_column

KNOWN = "known since an earlier night"
"""The reason of a row of a log without days that an earlier night has written."""
_RANK = "_star_ctr_rank"


def order_days(day: Column) -> Column:
    """Return a sort key for values of `ds` that places rows without a day before all days."""
    return F.when(day.isin(NO_DAY, BEFORE_FIRST_DAY), "").otherwise(day)


def select_known_rows(stored: DataFrame, ds: str, has_keys: bool) -> DataFrame:
    """Select the rows of a log that were known before a night.

    Args:
        stored: The rows of the table, with `ds`.
        ds: The night.
        has_keys: Whether a row replaces earlier rows with the same `key`.

    Returns:
        The rows of earlier days and those without a day; with keys, only the newest row of each key.
    """
    known = stored.where(order_days(F.col("ds")) < ds)
    if not has_keys:
        return known
    newest = Window.partitionBy("key").orderBy(order_days(F.col("ds")).desc())
    return known.withColumn(_RANK, F.row_number().over(newest)).where(F.col(_RANK) == 1).drop(_RANK)


_NUMBER = "_star_ctr_number"
_EVENT = ("user_id", "item_id", "behaviour", "ts")
"""Columns that identify a behaviour. The others may change without a new event, such as its position in the file."""


def find_new_events(rows: DataFrame, known: DataFrame, ds: str) -> DataFrame:
    """Find the behaviours that are not among the known ones, whatever their days. Of equal ones, the last are new.

    Args:
        rows: The rows of the behaviour log.
        known: The known rows.
        ds: The day from which the new rows are known.

    Returns:
        The new rows with `ds`.
    """
    names = [name for name in _EVENT if name in rows.columns]
    order = [F.col(name) for name in ("order",) if name in rows.columns]
    number = F.row_number().over(Window.partitionBy(*names).orderBy(*order, *names))
    counts = known.groupBy(*names).agg(F.count("*").alias("_known"))
    same = [F.col(f"row.{name}").eqNullSafe(F.col(f"count.{name}")) for name in names]
    joined = rows.withColumn(_NUMBER, number).alias("row").join(counts.alias("count"), same, "left")
    new = joined.where(F.col(_NUMBER) > F.coalesce("_known", F.lit(0)))
    return new.select("row.*").drop(_NUMBER).withColumn("ds", F.lit(ds))


def find_new_rows(rows: DataFrame, known: DataFrame, ds: str) -> DataFrame:
    """Find the rows that are not among the known rows, whatever their days. Of equal rows, only the surplus is new.

    Args:
        rows: The rows.
        known: The known rows. Columns that only one of the two has are null in the other.
        ds: The day from which the new rows are known.

    Returns:
        The new rows with `ds`, and the columns that only `known` has.
    """
    kinds = {**dict(known.dtypes), **dict(rows.dtypes)}
    if any(kinds[name] != kind for name, kind in known.dtypes):
        return rows.withColumn("ds", F.lit(ds))  # the table rejects columns of another type
    names = [name for name in kinds if name != "ds"]

    def select(frame: DataFrame) -> DataFrame:
        existing = set(frame.columns)
        columns = (get_column(n) if n in existing else F.lit(None).cast(kinds[n]).alias(n) for n in names)
        return frame.select(*columns)

    return select(rows).exceptAll(select(known)).withColumn("ds", F.lit(ds))
