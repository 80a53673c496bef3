"""Running statistics by group, as known at each row's cut: one sorted pass over all groups at once.

Every event and every request is dealt to the groups whose columns it has (a behaviour has no domain and takes
no part in `user x domain`), as (group, key, time, weights). Sorted by time within (group, key), a request finds
the sums over all strictly earlier events. What lies before the first day has one time, so it is summed
by key before it is sorted. Counts are kept raw; rates are smoothed when rows are encoded.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from star_ctr.conf.features import Cut, Statistic, flat
from star_ctr.conf.settings import Settings
from star_ctr.features.timeline import SCALE, UNTIMED, cut_micros, weight


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
    """The statistics of one cut: impression_id and their columns, null where a row lacks a group's column."""
    groups = list(dict.fromkeys(tuple(flat(c) for c in s.by) for s in statistics))
    kinds = sorted({kind for s in statistics for kind in (*s.kinds(), *s.since)})
    weights = [weight(kind) for kind in kinds]
    happened = events.select(_memberships(groups), "t", *weights)
    sums = [F.sum(w).alias(w) for w in weights]
    before = happened.where(F.col("t") == UNTIMED).groupBy("member").agg(*sums).withColumn("t", F.lit(UNTIMED))
    timed = happened.where(F.col("t") != UNTIMED)
    asked = rows.select(_memberships(groups), cut_micros(settings, cut).alias("t"), "impression_id")
    every = timed.unionByName(before).unionByName(asked, allowMissingColumns=True)
    earlier = Window.partitionBy("member").orderBy("t").rangeBetween(Window.unboundedPreceding, -1)
    since = sorted({kind for s in statistics for kind in s.since})
    known = every.select(
        "impression_id",
        F.col("member.group").alias("group"),
        "t",
        *((F.coalesce(F.sum(w).over(earlier), F.lit(0)) / SCALE).alias(w) for w in weights),
        *(
            F.max(F.when((F.col(weight(k)) > 0) & (F.col("t") != UNTIMED), F.col("t"))).over(earlier).alias(_last(k))
            for k in since
        ),
    ).where(F.col("impression_id").isNotNull())
    columns: dict[str, Column] = {}
    for s in statistics:
        mine = F.col("group") == groups.index(tuple(flat(c) for c in s.by))
        for kind in s.kinds():
            columns[count_column(s.name, kind)] = F.when(mine, F.col(weight(kind)))
        for kind in s.since:
            columns[since_column(s.name, kind)] = F.when(mine, (F.col("t") - F.col(_last(kind))) / 1e6)
    return known.groupBy("impression_id").agg(*(F.max(value).alias(name) for name, value in columns.items()))


def _last(kind: str) -> str:
    return f"_last_{kind}"


def _memberships(groups: Sequence[tuple[str, ...]]) -> Column:
    """One row for each group whose columns a row has: `member`, a struct of the group's number and the key."""
    members = []
    for number, group in enumerate(groups):
        lacking = F.lit(False)
        for column in group:
            lacking = lacking | F.col(column).isNull()
        key = F.concat_ws("\x1f", *group)
        members.append(F.when(~lacking, F.struct(F.lit(number).alias("group"), key.alias("key"))))
    return F.explode(F.array_compact(F.array(*members))).alias("member")
