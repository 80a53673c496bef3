"""Sequences from the last events of each user by day.

The last events of a user on a day are collected first. A row then gets the last events of the days before its cut. A
sequence with the cut `day` is complete with these lists. For one with the cut `time`, they are the events with which a
scan of the events of the day begins (`last_events`).
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from functools import reduce

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from star_ctr.conf.contracts.column_names import name_behaviour_column, name_gap_column, name_side_column
from star_ctr.conf.settings.features import Sequence
from star_ctr.conf.settings.root import Settings
from star_ctr.features.point_in_time.daily_counts import CUT_DAY, compute_known_day
from star_ctr.features.point_in_time.events import LOG_DAY, UNTIMED, name_weight_column
from star_ctr.features.point_in_time.expiry import DAY, FIRST, LAST, SEGMENT, select_unexpired, split_segments

SEQUENCE, USER, EVENTS = "_sequence", "_user", "_events"
"""Columns of daily lists: the name of a sequence, the user, and the events, the newest last."""


def list_by_day(settings: Settings, events: DataFrame) -> DataFrame:
    """Collect the last events of each user and sequence by log day and by the day on which they became known.

    Args:
        settings: The data set.
        events: Events from `events.build_events`.

    Returns:
        One row per log day, sequence, user and day. An event has its time `t` in microseconds, two fields that order
        events of the same time, its `kinds` (bit i for the kind i of the sequence's `of`), and its `values` in the
        order of the sequence's `columns`.
    """
    sequences = settings.select_features(Sequence)
    entries = []
    for s in sequences:
        kinds = _make_bits(s)
        values = F.array(*(F.col(c.flat).cast("string") for c in s.columns))
        event = F.struct("t", "order", "tie", kinds.alias("kinds"), values.alias("values"))
        entries.append(F.struct(F.lit(s.name).alias(SEQUENCE), F.when(kinds != 0, event).alias("_event")))
    rows = events.where(F.col("user_id").isNotNull()).select(
        LOG_DAY, F.col("user_id").alias(USER), compute_known_day(settings.zone).alias(DAY), F.inline(F.array(*entries))
    )
    return _keep_last(settings, rows.where(F.col("_event").isNotNull()), [LOG_DAY, SEQUENCE, USER, DAY])


def _make_bits(sequence: Sequence) -> Column:
    """Return the kinds of an event that a sequence reads, one bit per kind of its `of`."""
    bits = (F.when(F.col(name_weight_column(k)) > 0, 1 << i).otherwise(0) for i, k in enumerate(sequence.of))
    return reduce(lambda a, b: a.bitwiseOR(b), bits).cast("long")


def _keep_last(settings: Settings, rows: DataFrame, by: Seq[str]) -> DataFrame:
    """Collect the last events of each group, as many as the sequence keeps."""
    lengths = {s.name: s.length for s in settings.select_features(Sequence)}
    length = F.create_map(*(F.lit(x) for pair in lengths.items() for x in pair))[F.col(SEQUENCE)]
    # Spark limits the number of events per group before the shuffle, so that a user with many events is no problem.
    rank = F.row_number().over(Window.partitionBy(*by).orderBy(F.col("_event").desc()))
    kept = rows.withColumn("_rank", rank).where(F.col("_rank") <= max(lengths.values())).where(F.col("_rank") <= length)
    return kept.groupBy(*by).agg(F.array_sort(F.collect_list("_event")).alias(EVENTS))


def merge_lists(settings: Settings, lists: DataFrame, end: Column, by: Seq[str] = ()) -> DataFrame:
    """Merge the lists of several days into one; see `daily_counts.merge_days`."""
    key = [*by, SEQUENCE, USER]
    if (expire_days := settings.state.expire_days) is not None:
        # All parts of a segment get its first and last day, because the list may not hold the events of these days.
        parts = split_segments(lists, key, end, expire_days)
        segment = Window.partitionBy(*key, DAY, SEGMENT)
        parts = parts.withColumns({FIRST: F.min(FIRST).over(segment), LAST: F.max(LAST).over(segment)})
        rows = parts.select(*key, DAY, FIRST, LAST, F.explode(EVENTS).alias("_event"))
        return _keep_last(settings, rows, [*key, DAY, FIRST, LAST])
    rows = lists.withColumn(DAY, F.greatest(F.col(DAY), end - 1))
    return _keep_last(settings, rows.select(*key, DAY, F.explode(EVENTS).alias("_event")), [*key, DAY])


def find_last_events(settings: Settings, asked: DataFrame, lists: DataFrame, sequences: Seq[Sequence]) -> DataFrame:
    """Find the last events of users before the day of a cut.

    Args:
        settings: The data set.
        asked: Users (USER) and days of cuts (CUT_DAY).
        lists: Lists from `list_by_day` or `merge_lists`.
        sequences: The sequences to find.

    Returns:
        One row per sequence, user and day of the cut, if there are events, with EVENTS.
    """
    wanted = lists.where(F.col(SEQUENCE).isin([s.name for s in sequences]))
    joined = asked.join(wanted, USER).where(F.col(DAY) < F.col(CUT_DAY))
    if (expire_days := settings.state.expire_days) is not None:
        joined = select_unexpired(joined, [SEQUENCE, USER, CUT_DAY], F.col(CUT_DAY), expire_days)
    exploded = joined.select(SEQUENCE, USER, CUT_DAY, F.explode(EVENTS).alias("_event"))
    return _keep_last(settings, exploded, [SEQUENCE, USER, CUT_DAY])


def add_day_sequences(settings: Settings, rows: DataFrame, lists: DataFrame) -> DataFrame:
    """Add the columns of the sequences with the cut `day`.

    Args:
        settings: The data set.
        rows: Rows with `user_id`, `ts` and CUT_DAY.
        lists: Lists from `list_by_day` or `merge_lists`.

    Returns:
        `rows` with the list columns; empty lists for rows without events or without a user.
    """
    sequences = [s for s in settings.select_features(Sequence) if s.cut == "day"]
    if not sequences:
        return rows
    asked = select_users(rows)
    found = find_last_events(settings, asked, lists, sequences)
    wide = found.groupBy(USER, CUT_DAY).agg(
        *(F.first(F.when(F.col(SEQUENCE) == s.name, F.col(EVENTS)), True).alias(f"_list_{s.name}") for s in sequences)
    )
    wide = wide.withColumnRenamed(CUT_DAY, "_at")
    joined = rows.join(wide, (F.col("user_id") == F.col(USER)) & (F.col(CUT_DAY) == F.col("_at")), "left")
    columns = {name: value for s in sequences for name, value in _unpack(s, F.col(f"_list_{s.name}")).items()}
    return joined.withColumns(columns).drop(USER, "_at", *(f"_list_{s.name}" for s in sequences))


def select_users(rows: DataFrame) -> DataFrame:
    """Return the distinct users (USER) and days of cuts (CUT_DAY) of rows."""
    return rows.where(F.col("user_id").isNotNull()).select(F.col("user_id").alias(USER), CUT_DAY).distinct()


def _unpack(sequence: Sequence, events: Column) -> dict[str, Column]:
    """Return the list columns of a sequence, from its events."""
    found = {}

    def transform(make: Callable[[Column], Column], kind: str) -> Column:
        return F.coalesce(F.transform(events, make), F.array().cast(f"array<{kind}>"))

    def get_value(number: int) -> Callable[[Column], Column]:
        return lambda event: event["values"][number]

    for k, column in enumerate(sequence.columns):
        found[name_side_column(sequence.name, column)] = transform(get_value(k), "string")
    if sequence.gap:
        time = F.unix_micros("ts")
        gap = transform(lambda e: F.when(e["t"] != UNTIMED, (time - e["t"]) / 1e6), "double")
        found[name_gap_column(sequence.name)] = gap
    if sequence.behaviour:
        # If an event has several kinds, the last one in the order of the settings counts.
        kinds = list(enumerate(sequence.of))[::-1]

        def name_kind(event: Column) -> Column:
            names = [F.when(event["kinds"].bitwiseAND(1 << i) != 0, F.lit(name)) for i, name in kinds]
            return F.coalesce(*names)

        found[name_behaviour_column(sequence.name)] = transform(name_kind, "string")
    return found
