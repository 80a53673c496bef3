"""Statistics from sums of events by group and day.

The events of each group are summed by day first. A row then gets the sum over the days before its cut. Summing comes
before any shuffle, so a group with many events costs no more than others, and no row waits for a sorted scan.

Sums are integers in millionths, so they do not depend on the order of the events, and the sums of days can be added up
in any way. A decayed sum is rounded per day for the same reason.

A statistic with the cut `day` is complete with these sums. For one with the cut `time`, they are the base to which a
scan of the events of the day adds (`running_counts`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from contextlib import ExitStack
from functools import reduce
from typing import NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.contracts.column_names import name_count_column, name_since_column
from star_ctr.conf.contracts.column_ref import ColumnRef
from star_ctr.conf.settings.features import Numeric, Statistic
from star_ctr.conf.settings.label import LabelColumn
from star_ctr.conf.settings.root import Settings
from star_ctr.features.point_in_time.events import LOG_DAY, SCALE, UNTIMED, name_weight_column
from star_ctr.features.point_in_time.known_times import find_start
from star_ctr.features.point_in_time.running_counts import name_base_high, name_base_last, name_base_low

GROUP, KEY, DAY = "_group", "_key", "_day"
"""Columns of daily sums: the name of a group, the values of its columns as text, and the day as days since 1970."""
CUT_DAY = "_cut_day"
"""Column of rows with the day of their cut, as days since 1970."""
_ROWS = "_rows"
_LOW_BITS = 32
_LOW = (1 << _LOW_BITS) - 1
_MAX_BROADCAST = 400_000
"""Maximum number of groups that are sent to all tasks. Above it, the rows are shuffled by group."""
_HOT = 8
"""A group is hot if it has more than this fraction of the rows of a task."""


class Group(NamedTuple):
    """The statistics with the same group columns.

    Attributes:
        by: The group columns, sorted.
        statistics: The statistics.
    """

    by: tuple[ColumnRef, ...]
    statistics: tuple[Statistic, ...]

    @property
    def name(self) -> str:
        """The name of the group, unique in the data set."""
        return ",".join(column.flat for column in self.by)

    @property
    def kinds(self) -> list[str]:
        """The kinds of `history` that the statistics read, sorted."""
        return sorted({kind for s in self.statistics for kind in (*s.list_kinds(), *s.since)})

    @property
    def horizon(self) -> int:
        """The number of days before a cut whose sums are needed one by one. Older ones are needed only in total."""
        return max((s.horizon or 0 for st in self.statistics for s in list_sums(st).values()), default=0)

    @property
    def reaches_back(self) -> bool:
        """Whether a statistic counts all days."""
        return any(s.horizon is None for st in self.statistics for s in list_sums(st).values())


class Sum(NamedTuple):
    """A sum over the days before a cut.

    Attributes:
        kind: The kind of `history`.
        last_days: Number of days before the cut that count; None for all days.
        half_life_days: Number of days after which an event counts half; None if all events count fully.
        is_since: Whether to find the time of the last event instead of the sum.
    """

    kind: str
    last_days: int | None
    half_life_days: float | None
    is_since: bool

    @property
    def horizon(self) -> int | None:
        """The number of days before the cut that can count; None for all days."""
        if self.half_life_days is None:
            return self.last_days
        decayed = math.ceil(Statistic.HALF_LIVES * self.half_life_days)
        return decayed if self.last_days is None else min(decayed, self.last_days)


def list_groups(settings: Settings) -> list[Group]:
    """Return the groups of all statistics, in the order of the settings."""
    found: dict[tuple[ColumnRef, ...], list[Statistic]] = {}
    for statistic in settings.select_features(Statistic):
        found.setdefault(tuple(sorted(set(statistic.by))), []).append(statistic)
    return [Group(by, tuple(statistics)) for by, statistics in found.items()]


def list_sums(statistic: Statistic) -> dict[str, Sum]:
    """Return the sums of a statistic by the names of their columns."""
    window = (statistic.last_days, statistic.half_life_days)
    counts = {name_count_column(statistic.name, kind): Sum(kind, *window, False) for kind in statistic.list_kinds()}
    return counts | {
        name_since_column(statistic.name, kind): Sum(kind, statistic.last_days, None, True) for kind in statistic.since
    }


def compute_known_day(zone: str) -> Column:
    """Return the day on which an event became known, as days since 1970, from its time `t`."""
    return F.unix_date(F.to_date(F.from_utc_timestamp(F.timestamp_micros("t"), zone)))


def compute_cut_day(zone: str) -> Column:
    """Return the day of the cut of a row, as days since 1970; see `events.compute_cut`."""
    return F.unix_date(F.least(F.to_date("ds"), F.to_date(F.from_utc_timestamp("ts", zone))))


def sum_by_day(settings: Settings, events: DataFrame, groups: Seq[Group]) -> DataFrame:
    """Sum the events of each group by log day and by the day on which they became known.

    Args:
        settings: The data set.
        events: Events from `events.build_events`.
        groups: The groups.

    Returns:
        One row per log day, group, key and day, with the sums and the last time of each kind; null for kinds that no
        statistic of the group reads. Sums that may exceed 64 bits have a high and a low part.
    """
    weights = {kind: F.col(name_weight_column(kind)) for kind in _list_kinds(groups)}
    keys = []
    for group in groups:
        is_used = reduce(lambda a, b: a | b, (weights[kind] != 0 for kind in group.kinds))
        key = F.when(is_used, _make_group_key(settings, group))
        keys.append(F.struct(F.lit(group.name).alias(GROUP), key.alias(KEY)))
    day = compute_known_day(settings.zone).alias(DAY)
    columns = [F.col(LOG_DAY), F.col("t"), day, *weights.values()]
    exploded = events.select(*columns, F.inline(F.array(*keys))).where(F.col(KEY).isNotNull())
    users = {kind: [group.name for group in groups if kind in group.kinds] for kind in weights}
    sums = []
    for kind, weight in weights.items():
        used = F.when(F.col(GROUP).isin(users[kind]), weight)
        if _is_wide(settings, kind):
            sums.append(F.sum(F.shiftright(used, _LOW_BITS)).alias(_name_high(kind)))
            sums.append(F.sum(used.bitwiseAND(_LOW)).alias(_name_low(kind)))
        else:
            sums.append(F.sum(used).alias(_name_low(kind)))
        sums.append(F.max(F.when((used > 0) & (F.col("t") != UNTIMED), F.col("t"))).alias(_name_last(kind)))
    summed: DataFrame = exploded.groupBy(LOG_DAY, GROUP, KEY, DAY).agg(*sums)
    return summed


def merge_days(settings: Settings, daily: DataFrame, groups: Seq[Group], end: Column, by: Seq[str] = ()) -> DataFrame:
    """Merge the sums of several days into one.

    Args:
        settings: The data set.
        daily: Sums from `sum_by_day` or from this function.
        groups: The groups.
        end: The day after the last day to merge, as days since 1970. Events that became known on later days, because
            their time is later than their log day, keep their day.
        by: More columns to group by.

    Returns:
        The sums, with the last merged day as their day.
    """
    sums: list[Column] = []
    for kind in _list_kinds(groups):
        names = [_name_low(kind), *([_name_high(kind)] if _is_wide(settings, kind) else [])]
        sums += (F.sum(name).alias(name) for name in names)
        sums.append(F.max(_name_last(kind)).alias(_name_last(kind)))
    return daily.withColumn(DAY, F.greatest(F.col(DAY), end - 1)).groupBy(*by, GROUP, KEY, DAY).agg(*sums)


def list_sum_columns(settings: Settings, groups: Seq[Group]) -> list[str]:
    """Return the names of the columns with sums and last times."""
    found = []
    for kind in _list_kinds(groups):
        found += [_name_low(kind), *([_name_high(kind)] if _is_wide(settings, kind) else []), _name_last(kind)]
    return found


def _list_kinds(groups: Iterable[Group]) -> list[str]:
    return sorted({kind for group in groups for kind in group.kinds})


def make_key(values: Iterable[Column]) -> Column:
    """Return the values of a group's columns as one text, different for different values; null if one is null."""
    *first, last = (value.cast("string") for value in values)
    # The length of all values but the last one shows where each of them ends.
    return F.concat(*(part for value in first for part in (F.length(value), F.lit(":"), value)), last)


def _make_group_key(settings: Settings, group: Group) -> Column:
    """Return the key of a group in rows or events. A numeric feature's column is a number in rows, so 1.0 equals 1."""
    numeric = {f.column for f in settings.select_features(Numeric)}
    columns = (F.col(c.flat).try_cast("double") if c in numeric else F.col(c.flat) for c in group.by)
    return make_key(columns)


def add_daily_statistics(
    settings: Settings, rows: DataFrame, daily: DataFrame, groups: Seq[Group], stack: ExitStack
) -> DataFrame:
    """Add the columns of the statistics with the cut `day`, and the bases of those with the cut `time`.

    Args:
        settings: The data set.
        rows: Rows with `impression_id`, CUT_DAY and the columns of all groups.
        daily: The sums by day, from `sum_by_day` or `merge_days`.
        groups: The groups.
        stack: Releases the cache of the sums when it is closed. Write the result before.

    Returns:
        `rows` with the added columns. The statistics are null where one of the group columns is null.
    """
    keys = {group.name: _make_group_key(settings, group) for group in groups}
    structs = [F.struct(F.lit(name).alias(GROUP), key.alias(KEY)) for name, key in keys.items()]
    asked = rows.select(CUT_DAY, F.inline(F.array(*structs))).where(F.col(KEY).isNotNull())
    asked = asked.groupBy(GROUP, KEY, CUT_DAY).agg(F.count("*").alias(_ROWS))
    sums = list(dict.fromkeys(s for group in groups for st in group.statistics for s in list_sums(st).values()))
    joined = asked.join(daily, [GROUP, KEY]).where(F.col(DAY) < F.col(CUT_DAY))
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
        return [F.max(F.when(is_recent, F.col(_name_last(wanted.kind)))).alias(f"_t{number}")]
    zero = F.lit(0).cast("long")
    low = F.coalesce(F.col(_name_low(wanted.kind)), zero)
    high = F.coalesce(F.col(_name_high(wanted.kind)), zero) if _is_wide(settings, wanted.kind) else zero
    if wanted.half_life_days is not None and horizon is not None:
        # Powers are computed here and not by Spark, so that they are the same on every machine.
        weights = [2.0 ** (-days / wanted.half_life_days) for days in range(1, horizon + 1)]
        decayed = F.round(_to_double(low, high) * F.get(F.array(*map(F.lit, weights)), age - 1))
        decayed_high = F.floor(decayed / float(1 << _LOW_BITS))
        low, high = (decayed - decayed_high * float(1 << _LOW_BITS)).cast("long"), decayed_high.cast("long")
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
    carried = high + F.shiftright(low, _LOW_BITS)
    return carried.cast("double") * float(1 << _LOW_BITS) + low.bitwiseAND(_LOW).cast("double")


def _is_wide(settings: Settings, kind: str) -> bool:
    """Return whether sums of a kind may exceed 64 bits: those of any outcome but the label."""
    outcome, label = settings.history[kind].outcome, settings.label
    return outcome not in (None, "label", label.column if isinstance(label, LabelColumn) else "label")


def _name_low(kind: str) -> str:
    return f"low_{kind}"


def _name_high(kind: str) -> str:
    return f"high_{kind}"


def _name_last(kind: str) -> str:
    return f"last_{kind}"
