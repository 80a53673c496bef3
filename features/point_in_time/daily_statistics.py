"""Statistics from sums of events by group and day.

A row gets the sum over the days before its cut, so no row waits for a sorted scan. A decayed sum is rounded per day, so
that it does not depend on how the sums of days are added up.

A statistic with the cut `day` is complete with these sums. For one with the cut `time`, they are the base to which a
scan of the events of the day adds (`running_counts`).
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from contextlib import ExitStack

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.settings.root import Settings
from star_ctr.features.point_in_time.daily_counts import (
    CUT_DAY,
    GROUP,
    KEY,
    LOW_BITS,
    LOW_MASK,
    Group,
    Sum,
    is_wide,
    list_sums,
    make_group_key,
    name_high,
    name_last,
    name_low,
)
from star_ctr.features.point_in_time.events import SCALE
from star_ctr.features.point_in_time.expiry import DAY, select_unexpired
from star_ctr.features.point_in_time.known_times import find_start
from star_ctr.features.point_in_time.running_counts import name_base_high, name_base_last, name_base_low

_ROWS = "_rows"
_MAX_BROADCAST = 400_000
"""Maximum number of groups that are sent to all tasks. Above it, the rows are shuffled by group."""
_HOT = 8
"""A group is hot if it has more than an eighth of the rows of a task."""


def add_daily_statistics(
    settings: Settings, rows: DataFrame, daily: DataFrame, groups: Seq[Group], stack: ExitStack
) -> DataFrame:
    """Add the columns of the statistics with the cut `day`, and the bases of those with the cut `time`.

    Args:
        settings: The data set.
        rows: Rows with `impression_id`, CUT_DAY and the columns of all groups.
        daily: The sums by day, from `sum_by_day` or `merge_days`; with FIRST and LAST if keys expire.
        groups: The groups.
        stack: Releases the cache of the sums when it is closed. Write the result before.

    Returns:
        `rows` with the added columns. The statistics are null where one of the group columns is null.
    """
    keys = {group.name: make_group_key(settings, group) for group in groups}
    structs = [F.struct(F.lit(name).alias(GROUP), key.alias(KEY)) for name, key in keys.items()]
    asked = rows.select(CUT_DAY, F.inline(F.array(*structs))).where(F.col(KEY).isNotNull())
    asked = asked.groupBy(GROUP, KEY, CUT_DAY).agg(F.count("*").alias(_ROWS))
    sums = list(dict.fromkeys(s for group in groups for st in group.statistics for s in list_sums(st).values()))
    joined = asked.join(daily, [GROUP, KEY]).where(F.col(DAY) < F.col(CUT_DAY))
    if (expire_days := settings.state.expire_days) is not None:
        joined = select_unexpired(joined, [GROUP, KEY, CUT_DAY], F.col(CUT_DAY), expire_days)
    aggregates = [column for k, s in enumerate(sums) for column in _aggregate(settings, s, k)]
    totals = joined.groupBy(GROUP, KEY, CUT_DAY, _ROWS).agg(*aggregates).persist()
    stack.callback(totals.unpersist)
    counts = totals.groupBy(GROUP).agg(F.count("*").alias("groups"), F.sum(_ROWS).alias("rows")).collect()
    sizes = {r[GROUP]: (r.groups, r.rows) for r in counts}
    for group in groups:
        values, defaults = _select_values(settings, group, sums)
        own = totals.where(F.col(GROUP) == group.name)
        own = own.select(KEY, F.col(CUT_DAY).alias("_at"), _ROWS, *(v.alias(n) for n, v in values.items()))
        n_groups, n_rows = sizes.get(group.name, (0, 0))
        rows = rows.withColumn(KEY, keys[group.name])
        if n_groups <= _MAX_BROADCAST:
            rows = _join(rows, F.broadcast(own), F.col(KEY), values)
        else:
            rows = _join_large(settings, rows, own, values, n_rows)
        # Rows of a group without events have the count 0.
        filled = {n: F.when(F.col(KEY).isNotNull(), F.coalesce(F.col(n), d)) for n, d in defaults.items()}
        rows = (rows.withColumns(filled) if filled else rows).drop(KEY)
    return rows


def _select_values(settings: Settings, group: Group, sums: Seq[Sum]) -> tuple[dict[str, Column], dict[str, Column]]:
    """Return the columns that a group adds to rows, from the aggregates of its sums, and the defaults of the counts."""
    values: dict[str, Column] = {}
    defaults: dict[str, Column] = {}
    zero = F.lit(0).cast("long")
    for statistic in group.statistics:
        for name, wanted in list_sums(statistic).items():
            number = sums.index(wanted)
            if statistic.cut == "day":
                values[name] = _finish(settings, wanted, number)
                defaults |= {} if wanted.is_since else {name: F.lit(0.0)}
            elif wanted.is_since:
                values[name_base_last(name)] = F.col(f"_t{number}")
            else:
                values[name_base_low(name)], values[name_base_high(name)] = F.col(f"_l{number}"), F.col(f"_h{number}")
                defaults |= {name_base_low(name): zero, name_base_high(name): zero}
    return values, defaults


def _join(rows: DataFrame, totals: DataFrame, key: Column, columns: Iterable[str]) -> DataFrame:
    """Add the columns of the totals to the rows with their key and cut."""
    found = totals.select(F.col(KEY).alias("_found"), "_at", *columns)
    joined = rows.join(found, (key == F.col("_found")) & (F.col(CUT_DAY) == F.col("_at")), "left")
    return joined.drop("_found", "_at")


def _join_large(
    settings: Settings, rows: DataFrame, totals: DataFrame, columns: Iterable[str], n_rows: int
) -> DataFrame:
    """Add the columns of many totals. Rows of hot groups, and rows without a group, are spread over all tasks."""
    limit = n_rows / (_HOT * settings.spark.shuffle_partitions)
    hot_values = [F.col(name).alias(f"_hot_{name}") for name in columns]
    hot = totals.where(F.col(_ROWS) > limit)
    hot = hot.select(F.col(KEY).alias("_hot"), F.col("_at").alias("_hot_at"), *hot_values)
    is_hot = (F.col(KEY) == F.col("_hot")) & (F.col(CUT_DAY) == F.col("_hot_at"))
    rows = rows.join(F.broadcast(hot), is_hot, "left")
    spread = F.concat(F.lit("\x00"), F.xxhash64("impression_id").cast("string"))
    key = F.when(F.col(KEY).isNull() | F.col("_hot").isNotNull(), spread).otherwise(F.col(KEY))
    rows = _join(rows, totals.where(F.col(_ROWS) <= limit), key, columns)
    return rows.withColumns({n: F.coalesce(F.col(n), F.col(f"_hot_{n}")) for n in columns}).drop(
        "_hot", "_hot_at", *(f"_hot_{n}" for n in columns)
    )


def _aggregate(settings: Settings, wanted: Sum, number: int) -> list[Column]:
    """Return the aggregates over days for a sum: its low and high part, or the last time."""
    age, horizon = F.col(CUT_DAY) - F.col(DAY), wanted.horizon
    is_recent = age <= horizon if horizon is not None else F.lit(True)
    if wanted.is_since:
        return [F.max(F.when(is_recent, F.col(name_last(wanted.kind)))).alias(f"_t{number}")]
    zero = F.lit(0).cast("long")
    low = F.coalesce(F.col(name_low(wanted.kind)), zero)
    high = F.coalesce(F.col(name_high(wanted.kind)), zero) if is_wide(settings, wanted.kind) else zero
    if wanted.half_life_days is not None and horizon is not None:
        # Powers are computed here and not by Spark, so that they are the same on every machine.
        weights = [2.0 ** (-days / wanted.half_life_days) for days in range(1, horizon + 1)]
        decayed = F.round(_to_double(low, high) * F.get(F.array(*map(F.lit, weights)), age - 1))
        decayed_high = F.floor(decayed / float(1 << LOW_BITS))
        low, high = (decayed - decayed_high * float(1 << LOW_BITS)).cast("long"), decayed_high.cast("long")
    return [
        F.coalesce(F.sum(F.when(is_recent, low)), zero).alias(f"_l{number}"),
        F.coalesce(F.sum(F.when(is_recent, high)), zero).alias(f"_h{number}"),
    ]


def _finish(settings: Settings, wanted: Sum, number: int) -> Column:
    """Return a sum in units of events, or the seconds since the last event."""
    if wanted.is_since:
        start = find_start(settings.zone, F.date_from_unix_date(F.col(CUT_DAY)))
        return (start - F.col(f"_t{number}")) / 1e6
    return _to_double(F.col(f"_l{number}"), F.col(f"_h{number}")) / float(SCALE)


def _to_double(low: Column, high: Column) -> Column:
    """Return `high` * 2^32 + `low` as the nearest double."""
    carried = high + F.shiftright(low, LOW_BITS)
    return carried.cast("double") * float(1 << LOW_BITS) + low.bitwiseAND(LOW_MASK).cast("double")
