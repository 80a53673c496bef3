"""Statistics with the cut `day`: sums of events by group and day, joined with the rows.

The events of each group are summed by day first. A row then gets the sum over the days before its cut. Summing comes
before any shuffle, so a group with many events costs no more than others, and no row waits for a sorted scan.

Sums are integers in millionths, so they do not depend on the order of the events, and the sums of days can be added up
in any way. A decayed sum is rounded per day for the same reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Seq
from contextlib import ExitStack
from functools import reduce
from typing import NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.contracts.column_names import name_count_column, name_since_column
from star_ctr.conf.contracts.column_ref import ColumnRef
from star_ctr.conf.settings.features import Statistic
from star_ctr.conf.settings.label import LabelColumn
from star_ctr.conf.settings.root import Settings
from star_ctr.features.point_in_time.events import SCALE, UNTIMED, name_weight_column
from star_ctr.features.point_in_time.known_times import find_start

GROUP, KEY, DAY = "_group", "_key", "_day"
"""Columns of daily sums: the name of a group, the values of its columns as text, and the day as days since 1970."""
_CUT = "_cut_day"
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
    """Return the groups of the statistics with the cut `day`, in the order of the settings."""
    found: dict[tuple[ColumnRef, ...], list[Statistic]] = {}
    for statistic in settings.select_features(Statistic):
        if statistic.cut == "day":
            found.setdefault(tuple(sorted(set(statistic.by))), []).append(statistic)
    return [Group(by, tuple(statistics)) for by, statistics in found.items()]


def list_sums(statistic: Statistic) -> dict[str, Sum]:
    """Return the sums of a statistic by the names of their columns."""
    window = (statistic.last_days, statistic.half_life_days)
    counts = {name_count_column(statistic.name, kind): Sum(kind, *window, False) for kind in statistic.list_kinds()}
    return counts | {
        name_since_column(statistic.name, kind): Sum(kind, statistic.last_days, None, True) for kind in statistic.since
    }


def sum_by_day(settings: Settings, events: DataFrame, groups: Seq[Group], types: Mapping[str, str]) -> DataFrame:
    """Sum the events of each group by the day on which they became known.

    Args:
        settings: The data set.
        events: Events from `events.build_events`.
        groups: The groups.
        types: The type of each group column in the rows to which the sums are joined.

    Returns:
        One row per group, key and day, with the sums and the last time of each kind. Sums that may exceed 64 bits have
        a high and a low part.
    """
    weights = {kind: F.col(name_weight_column(kind)) for kind in sorted({k for group in groups for k in group.kinds})}
    keys = []
    for group in groups:
        is_used = reduce(lambda a, b: a | b, (weights[kind] != 0 for kind in group.kinds))
        key = make_key(F.col(column.flat).try_cast(types[column.flat]) for column in group.by)
        keys.append(F.struct(F.lit(group.name).alias(GROUP), F.when(is_used, key).alias(KEY)))
    day = F.unix_date(F.to_date(F.from_utc_timestamp(F.timestamp_micros("t"), settings.zone)))
    exploded = events.select("t", day.alias(DAY), *weights.values(), F.inline(F.array(*keys))).where(
        F.col(KEY).isNotNull()
    )
    sums = []
    for kind, weight in weights.items():
        if _is_wide(settings, kind):
            sums.append(F.sum(F.shiftright(weight, _LOW_BITS)).alias(_name_high(kind)))
            sums.append(F.sum(weight.bitwiseAND(_LOW)).alias(_name_low(kind)))
        else:
            sums.append(F.sum(weight).alias(_name_low(kind)))
        sums.append(F.max(F.when((weight > 0) & (F.col("t") != UNTIMED), F.col("t"))).alias(_name_last(kind)))
    return exploded.groupBy(GROUP, KEY, DAY).agg(*sums)


def make_key(values: Iterable[Column]) -> Column:
    """Return the values of a group's columns as one text, different for different values; null if one is null."""
    *first, last = (value.cast("string") for value in values)
    # The length of all values but the last one shows where each of them ends.
    return F.concat(*(part for value in first for part in (F.length(value), F.lit(":"), value)), last)


def compute_cut_day(zone: str) -> Column:
    """Return the day of the cut `day` of a row, as days since 1970; see `events.compute_cut`."""
    return F.unix_date(F.least(F.to_date("ds"), F.to_date(F.from_utc_timestamp("ts", zone))))


def add_daily_statistics(
    settings: Settings, rows: DataFrame, daily: DataFrame, groups: Seq[Group], stack: ExitStack
) -> DataFrame:
    """Add the columns of the statistics with the cut `day`.

    Args:
        settings: The data set.
        rows: Rows with `impression_id`, `ts`, `ds` and the columns of all groups.
        daily: The sums by day, from `sum_by_day`.
        groups: The groups.
        stack: Releases the cache of the sums when it is closed. Write the result before.

    Returns:
        `rows` with the columns of the statistics, null where one of the group columns is null.
    """
    rows = rows.withColumn(_CUT, compute_cut_day(settings.zone))
    keys = {group.name: make_key(F.col(column.flat) for column in group.by) for group in groups}
    structs = [F.struct(F.lit(name).alias(GROUP), key.alias(KEY)) for name, key in keys.items()]
    asked = rows.select(_CUT, F.inline(F.array(*structs))).where(F.col(KEY).isNotNull())
    asked = asked.groupBy(GROUP, KEY, _CUT).agg(F.count("*").alias(_ROWS))
    sums = list(dict.fromkeys(s for group in groups for st in group.statistics for s in list_sums(st).values()))
    joined = asked.join(daily, [GROUP, KEY]).where(F.col(DAY) < F.col(_CUT))
    aggregates = [column for k, s in enumerate(sums) for column in _aggregate(settings, s, k)]
    totals = joined.groupBy(GROUP, KEY, _CUT, _ROWS).agg(*aggregates)
    values = [_finish(settings, s, k).alias(f"_s{k}") for k, s in enumerate(sums)]
    totals = totals.select(GROUP, KEY, _CUT, _ROWS, *values).persist()
    stack.callback(totals.unpersist)
    counts = totals.groupBy(GROUP).agg(F.count("*").alias("groups"), F.sum(_ROWS).alias("rows")).collect()
    sizes = {r[GROUP]: (r.groups, r.rows) for r in counts}
    for group in groups:
        columns = {name: s for st in group.statistics for name, s in list_sums(st).items()}
        values = [F.col(f"_s{sums.index(s)}").alias(name) for name, s in columns.items()]
        own = totals.where(F.col(GROUP) == group.name).select(KEY, F.col(_CUT).alias("_at"), _ROWS, *values)
        n_groups, n_rows = sizes.get(group.name, (0, 0))
        rows = rows.withColumn(KEY, keys[group.name])
        if n_groups <= _MAX_BROADCAST:
            rows = _join(rows, F.broadcast(own), F.col(KEY), columns)
        else:
            rows = _join_large(settings, rows, own, columns, n_rows)
        # Rows of a group without events have the count 0.
        names = [name for name, s in columns.items() if not s.is_since]
        counted = {n: F.when(F.col(KEY).isNotNull(), F.coalesce(F.col(n), F.lit(0.0))) for n in names}
        rows = (rows.withColumns(counted) if counted else rows).drop(KEY)
    return rows.drop(_CUT)


def _join(rows: DataFrame, totals: DataFrame, key: Column, columns: Iterable[str]) -> DataFrame:
    """Add the columns of the totals to the rows with their key and cut."""
    found = totals.select(F.col(KEY).alias("_found"), "_at", *columns)
    joined = rows.join(found, (key == F.col("_found")) & (F.col(_CUT) == F.col("_at")), "left")
    return joined.drop("_found", "_at")


def _join_large(
    settings: Settings, rows: DataFrame, totals: DataFrame, columns: Iterable[str], n_rows: int
) -> DataFrame:
    """Add the columns of many totals. Rows of hot groups, and rows without a group, are spread over all tasks."""
    limit = n_rows / (_HOT * settings.spark.shuffle_partitions)
    hot = totals.where(F.col(_ROWS) > limit)
    hot = hot.select(
        F.col(KEY).alias("_hot"), F.col("_at").alias("_hot_at"), *(F.col(n).alias(f"_hot_{n}") for n in columns)
    )
    is_hot = (F.col(KEY) == F.col("_hot")) & (F.col(_CUT) == F.col("_hot_at"))
    rows = rows.join(F.broadcast(hot), is_hot, "left")
    spread = F.concat(F.lit("\x00"), F.xxhash64("impression_id").cast("string"))
    key = F.when(F.col(KEY).isNull() | F.col("_hot").isNotNull(), spread).otherwise(F.col(KEY))
    rows = _join(rows, totals.where(F.col(_ROWS) <= limit), key, columns)
    return rows.withColumns({n: F.coalesce(F.col(n), F.col(f"_hot_{n}")) for n in columns}).drop(
        "_hot", "_hot_at", *(f"_hot_{n}" for n in columns)
    )


def _aggregate(settings: Settings, wanted: Sum, number: int) -> list[Column]:
    """Return the aggregates over days for a sum: its low and high part, or the last time."""
    age, horizon = F.col(_CUT) - F.col(DAY), wanted.horizon
    is_recent = age <= horizon if horizon is not None else F.lit(True)
    if wanted.is_since:
        return [F.max(F.when(is_recent, F.col(_name_last(wanted.kind)))).alias(f"_t{number}")]
    low = F.col(_name_low(wanted.kind))
    high = F.col(_name_high(wanted.kind)) if _is_wide(settings, wanted.kind) else F.lit(0).cast("long")
    if wanted.half_life_days is not None and horizon is not None:
        # Powers are computed here and not by Spark, so that they are the same on every machine.
        weights = [2.0 ** (-days / wanted.half_life_days) for days in range(1, horizon + 1)]
        decayed = F.round(_to_double(low, high) * F.get(F.array(*map(F.lit, weights)), age - 1))
        decayed_high = F.floor(decayed / float(1 << _LOW_BITS))
        low, high = (decayed - decayed_high * float(1 << _LOW_BITS)).cast("long"), decayed_high.cast("long")
    return [
        F.sum(F.when(is_recent, low)).alias(f"_l{number}"),
        F.sum(F.when(is_recent, high)).alias(f"_h{number}"),
    ]


def _finish(settings: Settings, wanted: Sum, number: int) -> Column:
    """Return a sum in units of events, or the seconds since the last event."""
    if wanted.is_since:
        start = find_start(settings.zone, F.date_from_unix_date(F.col(_CUT)))
        return (start - F.col(f"_t{number}")) / 1e6
    zero = F.lit(0).cast("long")
    total = _to_double(F.coalesce(F.col(f"_l{number}"), zero), F.coalesce(F.col(f"_h{number}"), zero))
    return total / float(SCALE)


def _to_double(low: Column, high: Column) -> Column:
    """Return `high` * 2^32 + `low` as the nearest double."""
    carried = high + F.shiftright(low, _LOW_BITS)
    return carried.cast("double") * float(1 << _LOW_BITS) + low.bitwiseAND(_LOW).cast("double")


def _is_wide(settings: Settings, kind: str) -> bool:
    """Return whether sums of a kind may exceed 64 bits: those of any outcome but the label."""
    outcome, label = settings.history[kind].outcome, settings.label
    return outcome not in (None, "label", label.column if isinstance(label, LabelColumn) else "label")


def _name_low(kind: str) -> str:
    return f"_low_{kind}"


def _name_high(kind: str) -> str:
    return f"_high_{kind}"


def _name_last(kind: str) -> str:
    return f"_last_{kind}"
