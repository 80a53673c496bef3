"""Running statistics by group, as known at each row's cut: one sorted pass a group of columns.

Events and requests of a group meet in one window, sorted by time: the sums over all strictly earlier rows.
A row that lacks one of the group's columns (a behaviour has no domain) takes no part in that group, and a
request that lacks one gets null. Counts are kept raw; rates are smoothed when rows are encoded.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from star_ctr.conf.features import Cut, Statistic, flat
from star_ctr.conf.settings import Settings
from star_ctr.features.timeline import SCALE, cut_micros, weight


def count_column(statistic: str, kind: str) -> str:
    """The column that counts the events of a kind."""
    return f"{statistic}__{kind}"


def since_column(statistic: str, kind: str) -> str:
    """The column with the seconds since the last event of a kind (null: none yet)."""
    return f"{statistic}__since_{kind}"


def add_statistics(settings: Settings, rows: DataFrame, events: DataFrame) -> DataFrame:
    """`rows` (with impression_id, ts, ds and all group columns) with the columns of every declared statistic."""
    for cut in ("day", "time"):
        chosen = [s for s in settings.of_kind(Statistic) if s.cut == cut]
        if chosen:
            rows = rows.join(_as_of(settings, rows, events, chosen, cut), "impression_id", "left")
    return rows


def _as_of(
    settings: Settings, rows: DataFrame, events: DataFrame, statistics: Sequence[Statistic], cut: Cut
) -> DataFrame:
    """The statistics of one cut: impression_id and their columns."""
    groups = sorted({flat(c) for s in statistics for c in s.by})
    kinds = sorted({kind for s in statistics for kind in (*s.kinds(), *s.since)})
    happened = events.select(
        F.lit(None).cast("string").alias("impression_id"), *groups, "t", *(weight(kind) for kind in kinds)
    )
    nothing = (F.lit(0).cast("long").alias(weight(kind)) for kind in kinds)
    asked = rows.select("impression_id", *groups, cut_micros(settings, cut).alias("t"), *nothing)
    both = happened.unionByName(asked)
    names: list[str] = []
    for statistic in statistics:
        columns = _columns(statistic)
        names += list(columns)
        both = both.select("*", *(value.alias(name) for name, value in columns.items()))
    return both.where(F.col("impression_id").isNotNull()).select("impression_id", *names)


def _columns(statistic: Statistic) -> dict[str, Column]:
    keys = [F.col(flat(c)) for c in statistic.by]
    lacking = F.lit(False)
    for key in keys:
        lacking = lacking | key.isNull()
    # Rows that take no part would all meet in one partition; their time spreads them out.
    spread = F.when(lacking, F.col("t"))
    earlier = Window.partitionBy(*keys, spread).orderBy("t").rangeBetween(Window.unboundedPreceding, -1)
    columns: dict[str, Column] = {}
    for kind in statistic.kinds():
        total = F.coalesce(F.sum(weight(kind)).over(earlier), F.lit(0)) / SCALE
        columns[count_column(statistic.name, kind)] = F.when(~lacking, total)
    for kind in statistic.since:
        last = F.max(F.when((F.col(weight(kind)) > 0) & (F.col("t") > 0), F.col("t"))).over(earlier)
        columns[since_column(statistic.name, kind)] = F.when(~lacking, (F.col("t") - last) / 1e6)
    return columns
