"""Add statistics and sequences to rows: from sums and lists by day, and from sorted scans of the events of a day.

The cut of a row is in its cut day (`daily_counts.compute_cut_day`). What happened before this day comes from the sums
and lists of earlier days. That is all for features with the cut `day`. For features with the cut `time`, a scan adds
the events of the cut day before the cut. A scan computes features of one key, such as `user_id`, for all rows:

1. Convert each row to a query row whose time is the cut of the row: only strictly earlier events may count.
2. Union the query rows with the events, and with the last events of earlier days.
3. Repartition both by key and day. Sort each partition by key, day and time, with query rows before events of the same
   time.
4. Read each partition once (`scan.scan_batches`). Events update the running state of their key, and each query row gets
   the state of the strictly earlier events.

After the sort, the work is linear in the number of rows and events of the day. A join of rows with the events of their
key would be quadratic for keys with many rows and many events. On the other hand, each scan needs a shuffle and a sort.
The planner therefore lets features share scans:

- A statistic that groups by more columns than a key, such as `user x category`, shares the scan of the key `user`.
- Sequences share the scan of the key `user_id`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Seq
from contextlib import ExitStack
from functools import reduce
from typing import NamedTuple

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from star_ctr.conf.settings.features import Sequence, Statistic
from star_ctr.conf.settings.root import Settings
from star_ctr.features.point_in_time.daily_counts import (
    CUT_DAY,
    compute_cut_day,
    compute_known_day,
    list_groups,
    sum_by_day,
)
from star_ctr.features.point_in_time.daily_lists import (
    EVENTS,
    SEQUENCE,
    USER,
    add_day_sequences,
    find_last_events,
    list_by_day,
    select_users,
)
from star_ctr.features.point_in_time.daily_statistics import add_daily_statistics
from star_ctr.features.point_in_time.events import compute_cut, name_weight_column
from star_ctr.features.point_in_time.last_events import KIND_BITS, QUERY_TIME, LastEvents
from star_ctr.features.point_in_time.running_counts import RunningCounts
from star_ctr.features.point_in_time.scan import IS_QUERY, TIME, Kernel, scan_batches
from star_ctr.features.point_in_time.sequences import list_sequence_fields, name_event_column, plan_sequence
from star_ctr.features.point_in_time.statistics import list_statistic_fields, plan_counts

ORDER, TIE = "_order", "_tie"
"""Event columns that order events of the same time, so that sequences are deterministic."""
USER_KEY = ("user_id",)
"""The key of all sequences."""
_MAX_BITS = 60
"""Maximum number of kinds of the sequences of one scan."""


class ArrowFunction(NamedTuple):
    """The arguments of `DataFrame.mapInArrow`: a function on batches, and the schema of its result."""

    function: Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]
    schema: StructType


class History(NamedTuple):
    """The history of events that rows may depend on.

    Attributes:
        counts: Sums by day of the days before the cuts, from `daily_counts`; None without statistics.
        lists: Last events by day of the days before the cuts, from `daily_lists`; None without sequences.
        events: The events that became known on the cut days; None if no feature has the cut `time`.
    """

    counts: DataFrame | None
    lists: DataFrame | None
    events: DataFrame | None


class ScanPlan(NamedTuple):
    """The features that one scan computes.

    Attributes:
        key: The columns of `rows` by which the scan is partitioned and sorted, besides the day.
        statistics: Statistics of the scan. All group by the columns of `key`, and possibly by more columns.
        sequences: Sequences of the scan.
    """

    key: tuple[str, ...]
    statistics: list[Statistic]
    sequences: list[Sequence]


def compute_history(settings: Settings, events: DataFrame) -> History:
    """Compute the history from all events; see `events.build_events`. Keys must not expire (`state.expire_days`)."""
    assert settings.state.expire_days is None, "the first log day is not known"
    return History(
        sum_by_day(settings, events, list_groups(settings)) if settings.select_features(Statistic) else None,
        list_by_day(settings, events) if settings.select_features(Sequence) else None,
        events,
    )


def add_history(
    settings: Settings, rows: DataFrame, history: History, stack: ExitStack, postprocess: ArrowFunction | None = None
) -> DataFrame:
    """Add the columns of all declared statistics and sequences to `rows`.

    Args:
        settings: The data set.
        rows: Rows with `impression_id`, `ts`, `ds`, `user_id` and the group columns of all statistics. If a group
            column is null in a row, the statistic is null.
        history: The history of events.
        stack: Releases caches when it is closed. Write the result before.
        postprocess: Function to apply to the result. It runs in the Python worker of the last scan, so that the list
            columns need not be transferred through Spark.

    Returns:
        `rows` with the additional columns, or the result of `postprocess`.
    """
    names = rows.columns
    rows = rows.withColumn(CUT_DAY, compute_cut_day(settings.zone))
    if history.counts is not None and (groups := list_groups(settings)):
        rows = add_daily_statistics(settings, rows, history.counts, groups, stack)
    if history.lists is not None:
        rows = add_day_sequences(settings, rows, history.lists)
    statistics = [s for s in settings.select_features(Statistic) if s.cut == "time"]
    sequences = [s for s in settings.select_features(Sequence) if s.cut == "time"]
    plans = plan_scans(statistics, sequences)
    for plan in plans:
        if plan is plans[-1] and postprocess:
            return run_scan(settings, rows, history, plan, postprocess)
        rows = run_scan(settings, rows, history, plan)
    added = [n for n in rows.columns if n not in names and not n.startswith("_")]
    rows = rows.select(*(F.col(f"`{name}`") for name in [*names, *added]))
    return rows.mapInArrow(*postprocess) if postprocess else rows


def plan_scans(statistics: Seq[Statistic], sequences: Seq[Sequence]) -> list[ScanPlan]:
    """Return the scans that compute statistics and sequences with the cut `time`.

    A key is a group of columns that contains no other group. Each statistic belongs to a key whose columns are a subset
    of its group. Scans with sequences come last, because each later scan would have to shuffle their list columns.
    """
    groups = {s.name: tuple(sorted(c.flat for c in s.by)) for s in statistics}
    candidates = dict.fromkeys(([USER_KEY] if sequences else []) + list(groups.values()))
    keys = [group for group in candidates if not any(set(other) < set(group) for other in candidates)]
    key_by_statistic = {name: next(key for key in keys if set(key) <= set(group)) for name, group in groups.items()}
    plans = []
    for key in keys:
        chunks = _split_sequences(sequences) if key == USER_KEY else []
        own = [s for s in statistics if key_by_statistic[s.name] == key]
        plans.append(ScanPlan(key, own, chunks[0] if chunks else []))
        plans += (ScanPlan(key, [], chunk) for chunk in chunks[1:])
    return sorted(plans, key=lambda p: bool(p.sequences))


def _split_sequences(sequences: Seq[Sequence]) -> list[list[Sequence]]:
    """Split sequences into scans with at most _MAX_BITS kinds."""
    chunks: list[list[Sequence]] = []
    for sequence in sequences:
        if not chunks or sum(len(s.of) for s in [*chunks[-1], sequence]) > _MAX_BITS:
            chunks.append([])
        chunks[-1].append(sequence)
    return chunks


def run_scan(
    settings: Settings, rows: DataFrame, history: History, plan: ScanPlan, postprocess: ArrowFunction | None = None
) -> DataFrame:
    """Run one scan and add its columns to `rows`.

    Args:
        settings: The data set.
        rows: As for `add_history`, with CUT_DAY and the bases of the statistics (`add_daily_statistics`).
        history: As for `add_history`.
        plan: The scan to run.
        postprocess: As for `add_history`.

    Returns:
        `rows` with the columns of the scan, or the result of `postprocess`.
    """
    assert history.events is not None
    both = _make_query_rows(settings, rows, plan)
    both = both.unionByName(_select_events(settings, rows, history.events, plan), True)
    if plan.sequences and history.lists is not None:
        both = both.unionByName(_select_last_events(settings, rows, history.lists, plan), True)
    # Query rows with a null in the key match no events. There may be many: spread them over all partitions.
    key = [*plan.key, CUT_DAY]
    text = F.concat_ws("\x1f", *key)
    both = both.repartition(F.when(_require_all(plan.key), text).otherwise(F.col("impression_id").cast("string")))
    ties = [ORDER, TIE, "impression_id"] if plan.sequences else []
    both = both.sortWithinPartitions(*key, TIME, F.col(IS_QUERY).desc(), *ties)
    statistics = [plan_counts(s) for s in plan.statistics]
    sequences = [plan_sequence(s, bit) for s, bit in _number_bits(plan)]
    fields = [*list_statistic_fields(plan.statistics), *list_sequence_fields(plan.sequences)]
    keep, names = rows.columns, [field.name for field in fields]

    def scan_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        kernels: list[Kernel] = [RunningCounts(key, statistics)] if statistics else []
        kernels += [LastEvents(key, sequences)] if sequences else []
        results = scan_batches(batches, kernels, keep, names)
        return postprocess.function(results) if postprocess else results

    schema = postprocess.schema if postprocess else StructType([*rows.schema.fields, *fields])
    return both.mapInArrow(scan_partition, schema)


def _number_bits(plan: ScanPlan) -> Iterator[tuple[Sequence, int]]:
    """Yield each sequence of a scan with the number of the bit of its first kind."""
    bit = 0
    for sequence in plan.sequences:
        yield sequence, bit
        bit += len(sequence.of)


def _make_query_rows(settings: Settings, rows: DataFrame, plan: ScanPlan) -> DataFrame:
    """Return `rows` as query rows, with only those additional columns that the scan reads."""
    times = {TIME: compute_cut(settings)}
    times |= {QUERY_TIME: F.unix_micros("ts")} if plan.sequences else {}
    return rows.select("*", F.lit(True).alias(IS_QUERY), *(time.alias(name) for name, time in times.items()))


def _select_events(settings: Settings, rows: DataFrame, events: DataFrame, plan: ScanPlan) -> DataFrame:
    """Return the events that count in a scan, with only the columns that it reads.

    Group columns are cast to their types in `rows`.
    """
    types = dict(rows.dtypes)
    by = list(dict.fromkeys((*plan.key, *(column.flat for s in plan.statistics for column in s.by))))
    weights = list(
        dict.fromkeys(name_weight_column(kind) for s in plan.statistics for kind in (*s.list_kinds(), *s.since))
    )
    day = compute_known_day(settings.zone).alias(CUT_DAY)
    columns = [F.col("t").alias(TIME), day, *(F.col(c).try_cast(types[c]).alias(c) for c in by), *map(F.col, weights)]
    conditions = [F.col(w) != 0 for w in weights]
    if plan.sequences:
        bits = [
            F.when(F.col(name_weight_column(kind)) > 0, F.lit(1 << (first + i)).cast("long")).otherwise(0)
            for sequence, first in _number_bits(plan)
            for i, kind in enumerate(sequence.of)
        ]
        sides = sorted({c for s in plan.sequences for c in s.columns})
        columns += [
            F.col("order").alias(ORDER),
            F.col("tie").alias(TIE),
            reduce(lambda a, b: a.bitwiseOR(b), bits).alias(KIND_BITS),
            *(F.col(c.flat).cast("string").alias(name_event_column(c)) for c in sides),
        ]
        kinds = {kind for s in plan.sequences for kind in s.of}
        conditions += [F.col(name_weight_column(kind)) > 0 for kind in sorted(kinds)]
    selected = events.where(reduce(lambda a, b: a | b, conditions)).select(*columns).where(_require_all(plan.key))
    return selected.withColumn(IS_QUERY, F.lit(False))


def _select_last_events(settings: Settings, rows: DataFrame, lists: DataFrame, plan: ScanPlan) -> DataFrame:
    """Return the last events before the cut days, with which the scan of sequences begins."""
    found = find_last_events(settings, select_users(rows), lists, plan.sequences)
    event, kinds = F.col("_event"), F.lit(0).cast("long")
    values: dict[str, Column] = {}
    for sequence, first in _number_bits(plan):
        is_own = F.col(SEQUENCE) == sequence.name
        kinds = F.when(is_own, F.shiftleft(event["kinds"], first)).otherwise(kinds)
        for k, column in enumerate(sequence.columns):
            name = name_event_column(column)
            values[name] = F.when(is_own, event["values"][k]).otherwise(values.get(name, F.lit(None).cast("string")))
    return found.select(SEQUENCE, USER, CUT_DAY, F.explode(EVENTS).alias("_event")).select(
        F.col(USER).alias("user_id"),
        CUT_DAY,
        event["t"].alias(TIME),
        event["order"].alias(ORDER),
        event["tie"].alias(TIE),
        kinds.alias(KIND_BITS),
        *(value.alias(name) for name, value in values.items()),
        F.lit(False).alias(IS_QUERY),
    )


def _require_all(columns: Seq[str]) -> Column:
    """Return a condition that all columns are not null."""
    return reduce(lambda a, b: a & b, (F.col(column).isNotNull() for column in columns))
