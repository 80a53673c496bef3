"""Sums of events by group and day, from which statistics are computed (`daily_statistics`).

Sums are integers in millionths, so they do not depend on the order of the events, and the sums of days can be added up
in any way. Summing comes before any shuffle, so a group with many events costs no more than others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from functools import reduce
from typing import NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.contracts.column_names import name_count_column, name_since_column
from star_ctr.conf.contracts.column_ref import ColumnRef
from star_ctr.conf.settings.features import Numeric, Statistic
from star_ctr.conf.settings.label import LabelColumn
from star_ctr.conf.settings.root import Settings
from star_ctr.features.point_in_time.events import LOG_DAY, UNTIMED, name_weight_column
from star_ctr.features.point_in_time.expiry import DAY, FIRST, LAST, SEGMENT, split_segments

GROUP, KEY = "_group", "_key"
"""Columns of daily sums: the name of a group, and the values of its columns as text."""
CUT_DAY = "_cut_day"
"""Column of rows with the day of their cut, as days since 1970."""
LOW_BITS = 32
"""Number of bits of the low part of a sum."""
LOW_MASK = (1 << LOW_BITS) - 1


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
    """Return the day on which an event became known, as days since 1970, from its time `t`.

    An event without a time became known on its log day, or before all days if it has none.
    """
    day = F.unix_date(F.to_date(F.from_utc_timestamp(F.timestamp_micros("t"), zone)))
    log_day = F.when(F.col("t") == UNTIMED, F.unix_date(F.col(LOG_DAY).try_cast("date")))
    return F.coalesce(log_day, day)


def compute_cut_day(zone: str) -> Column:
    """Return the day of the cut of a row, as days since 1970: its log day, or that of its time if it is earlier."""
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
        key = F.when(is_used, make_group_key(settings, group))
        keys.append(F.struct(F.lit(group.name).alias(GROUP), key.alias(KEY)))
    day = compute_known_day(settings.zone).alias(DAY)
    columns = [F.col(LOG_DAY), F.col("t"), day, *weights.values()]
    exploded = events.select(*columns, F.inline(F.array(*keys))).where(F.col(KEY).isNotNull())
    users = {kind: [group.name for group in groups if kind in group.kinds] for kind in weights}
    sums = []
    for kind, weight in weights.items():
        used = F.when(F.col(GROUP).isin(users[kind]), weight)
        if is_wide(settings, kind):
            sums.append(F.sum(F.shiftright(used, LOW_BITS)).alias(name_high(kind)))
            sums.append(F.sum(used.bitwiseAND(LOW_MASK)).alias(name_low(kind)))
        else:
            sums.append(F.sum(used).alias(name_low(kind)))
        sums.append(F.max(F.when((used > 0) & (F.col("t") != UNTIMED), F.col("t"))).alias(name_last(kind)))
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
        The sums, with the last merged day as their day. With `state.expire_days`, the sums have FIRST and LAST, and
        those of expired keys are left out (`expiry.split_segments`).
    """
    sums: list[Column] = []
    for kind in _list_kinds(groups):
        names = [name_low(kind), *([name_high(kind)] if is_wide(settings, kind) else [])]
        sums += (F.sum(name).alias(name) for name in names)
        sums.append(F.max(name_last(kind)).alias(name_last(kind)))
    if (expire_days := settings.state.expire_days) is not None:
        parts = split_segments(daily, [*by, GROUP, KEY], end, expire_days)
        sums += [F.min(FIRST).alias(FIRST), F.max(LAST).alias(LAST)]
        return parts.groupBy(*by, GROUP, KEY, DAY, SEGMENT).agg(*sums).drop(SEGMENT)
    return daily.withColumn(DAY, F.greatest(F.col(DAY), end - 1)).groupBy(*by, GROUP, KEY, DAY).agg(*sums)


def list_sum_columns(settings: Settings, groups: Seq[Group]) -> list[str]:
    """Return the names of the columns with sums and last times."""
    found = []
    for kind in _list_kinds(groups):
        found += [name_low(kind), *([name_high(kind)] if is_wide(settings, kind) else []), name_last(kind)]
    return found


def _list_kinds(groups: Iterable[Group]) -> list[str]:
    return sorted({kind for group in groups for kind in group.kinds})


def make_key(values: Iterable[Column]) -> Column:
    """Return the values of a group's columns as one text, different for different values; null if one is null."""
    *first, last = (value.cast("string") for value in values)
    # The length of all values but the last one shows where each of them ends.
    return F.concat(*(part for value in first for part in (F.length(value), F.lit(":"), value)), last)


def make_group_key(settings: Settings, group: Group) -> Column:
    """Return the key of a group in rows or events. A numeric feature's column is a number in rows, so 1.0 equals 1."""
    numeric = {f.column for f in settings.select_features(Numeric)}
    columns = (F.col(c.flat).try_cast("double") if c in numeric else F.col(c.flat) for c in group.by)
    return make_key(columns)


def is_wide(settings: Settings, kind: str) -> bool:
    """Return whether sums of a kind may exceed 64 bits: those of any outcome but the label."""
    outcome, label = settings.history[kind].outcome, settings.label
    return outcome not in (None, "label", label.column if isinstance(label, LabelColumn) else "label")


def name_low(kind: str) -> str:
    """Return the name of the column with the sum of a kind, or with its low part."""
    return f"low_{kind}"


def name_high(kind: str) -> str:
    """Return the name of the column with the high part of the sum of a kind."""
    return f"high_{kind}"


def name_last(kind: str) -> str:
    """Return the name of the column with the time of the last event of a kind."""
    return f"last_{kind}"
