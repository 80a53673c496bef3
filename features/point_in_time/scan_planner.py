"""Add statistics and sequences to rows: those with the cut `day` from sums by day, the others with sorted scans.

For statistics with the cut `day`, see `daily_counts`. A scan computes features of one key, such as `user_id`, for all
rows:

1. Convert each row to a query row whose time is the cut of the row: only strictly earlier events may count.
2. Union the query rows with the events.
3. Repartition both by key. Sort each partition by key and time, with query rows before events of the same time.
4. Read each partition once (`scan.scan_batches`). Events update the running state of their key, and each query row gets
   the state of the strictly earlier events.

After the sort, the work is linear in the number of rows and events, however long the history of a key is. A join of
rows with the events of their key would be quadratic for keys with many rows and many events. On the other hand, each
scan needs a shuffle and a sort. The planner therefore lets features share scans:

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

from star_ctr.conf.settings.features import Cut, Sequence, Statistic
from star_ctr.conf.settings.root import Settings
from star_ctr.features.point_in_time.daily_counts import add_daily_statistics, list_groups, sum_by_day
from star_ctr.features.point_in_time.events import UNTIMED, compute_cut, name_weight_column
from star_ctr.features.point_in_time.last_events import KIND_BITS, QUERY_TIME, LastEvents
from star_ctr.features.point_in_time.running_counts import RunningCounts
from star_ctr.features.point_in_time.scan import IS_QUERY, TIME, Kernel, scan_batches
from star_ctr.features.point_in_time.sequences import list_sequence_fields, name_event_column, plan_sequence
from star_ctr.features.point_in_time.statistics import list_statistic_fields, plan_counts

ORDER, TIE = "_order", "_tie"
"""Event columns that order events of the same time, so that sequences are deterministic."""
USER = ("user_id",)
"""The key of all sequences."""


class ArrowFunction(NamedTuple):
    """The arguments of `DataFrame.mapInArrow`: a function on batches, and the schema of its result."""

    function: Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]
    schema: StructType


class ScanPlan(NamedTuple):
    """The features that one scan computes.

    Attributes:
        key: The columns of `rows` by which the scan is partitioned and sorted.
        cut: The cut that is used as the time of query rows.
        statistics: Statistics of the scan. All group by the columns of `key`, and possibly by more columns.
        sequences: Sequences of the scan.
    """

    key: tuple[str, ...]
    cut: Cut
    statistics: list[Statistic]
    sequences: list[Sequence]


def add_history(
    settings: Settings,
    rows: DataFrame,
    events: DataFrame,
    stack: ExitStack,
    postprocess: ArrowFunction | None = None,
) -> DataFrame:
    """Add the columns of all declared statistics and sequences to `rows`.

    Args:
        settings: The data set.
        rows: Rows with `impression_id`, `ts`, `ds`, `user_id` and the group columns of all statistics. If a group
            column is null in a row, the statistic is null.
        events: Events from `events.build_events`, with the group columns of statistics and the columns of sequences.
        stack: Releases caches when it is closed. Write the result before.
        postprocess: Function to apply to the result. It runs in the Python worker of the last scan, so that the list
            columns need not be transferred through Spark.

    Returns:
        `rows` with the additional columns, or the result of `postprocess`.
    """
    if groups := list_groups(settings):
        types = dict(rows.dtypes)
        daily = sum_by_day(settings, events, groups, types)
        rows = add_daily_statistics(settings, rows, daily, groups, stack)
    timed = [s for s in settings.select_features(Statistic) if s.cut == "time"]
    plans = plan_scans(timed, settings.select_features(Sequence))
    for plan in plans:
        rows = run_scan(settings, rows, events, plan, postprocess if plan is plans[-1] else None)
    return rows if plans or postprocess is None else rows.mapInArrow(*postprocess)


def plan_scans(statistics: Seq[Statistic], sequences: Seq[Sequence]) -> list[ScanPlan]:
    """Return the scans that compute statistics with the cut `time`, and sequences.

    A key is a group of columns that contains no other group. Each statistic belongs to a key whose columns are a subset
    of its group. Sequences are collected at the cut of the scan, so sequences with both cuts need two scans. Scans with
    sequences come last, because each later scan would have to shuffle their list columns.
    """
    groups = {s.name: tuple(sorted(c.flat for c in s.by)) for s in statistics}
    candidates = dict.fromkeys(([USER] if sequences else []) + list(groups.values()))
    keys = [group for group in candidates if not any(set(other) < set(group) for other in candidates)]
    key_by_statistic = {name: next(key for key in keys if set(key) <= set(group)) for name, group in groups.items()}
    plans = []
    for key in keys:
        key_statistics = [s for s in statistics if key_by_statistic[s.name] == key]
        key_sequences = [s for s in sequences if key == USER]
        cut: Cut = "time" if key_statistics or any(s.cut == "time" for s in key_sequences) else "day"
        plans.append(ScanPlan(key, cut, key_statistics, [s for s in key_sequences if s.cut == cut]))
        if others := [s for s in key_sequences if s.cut != cut]:
            plans.append(ScanPlan(key, "day", [], others))
    return sorted(plans, key=lambda p: bool(p.sequences))


def run_scan(
    settings: Settings, rows: DataFrame, events: DataFrame, plan: ScanPlan, postprocess: ArrowFunction | None = None
) -> DataFrame:
    """Run one scan and add its columns to `rows`.

    Args:
        settings: The data set.
        rows: As for `add_history`.
        events: As for `add_history`.
        plan: The scan to run.
        postprocess: As for `add_history`.

    Returns:
        `rows` with the columns of the scan, or the result of `postprocess`.
    """
    both = _make_query_rows(settings, rows, plan).unionByName(_select_events(settings, rows, events, plan), True)
    # Query rows with a null in the key match no events. There may be many: spread them over all partitions.
    key = F.concat_ws("\x1f", *plan.key) if len(plan.key) > 1 else F.col(plan.key[0]).cast("string")
    both = both.repartition(F.when(_require_all(plan.key), key).otherwise(F.col("impression_id").cast("string")))
    ties = [ORDER, TIE, "impression_id"] if plan.sequences else []
    both = both.sortWithinPartitions(*plan.key, TIME, F.col(IS_QUERY).desc(), *ties)
    statistics = [plan_counts(s) for s in plan.statistics]
    sequences = [plan_sequence(s, list(settings.history)) for s in plan.sequences]
    fields = [*list_statistic_fields(plan.statistics), *list_sequence_fields(plan.sequences)]
    keep, names = rows.columns, [field.name for field in fields]

    def scan_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        kernels: list[Kernel] = [RunningCounts(plan.key, statistics)] if statistics else []
        kernels += [LastEvents(plan.key[0], sequences)] if sequences else []
        results = scan_batches(batches, kernels, keep, names)
        return postprocess.function(results) if postprocess else results

    schema = postprocess.schema if postprocess else StructType([*rows.schema.fields, *fields])
    return both.mapInArrow(scan_partition, schema)


def _make_query_rows(settings: Settings, rows: DataFrame, plan: ScanPlan) -> DataFrame:
    """Return `rows` as query rows, with only those additional columns that the scan reads."""
    times = {TIME: compute_cut(settings, plan.cut)}
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
    columns = [F.col("t").alias(TIME), *(F.col(c).try_cast(types[c]).alias(c) for c in by), *map(F.col, weights)]
    conditions = [F.col(w) != 0 for w in weights]
    if plan.sequences:
        kinds = {kind for s in plan.sequences for kind in s.of}
        bits = (
            F.when(F.col(name_weight_column(k)) > 0, 1 << i).otherwise(0)
            for i, k in enumerate(settings.history)
            if k in kinds
        )
        sides = sorted({c for s in plan.sequences for c in s.columns})
        columns += [
            F.col("order").alias(ORDER),
            F.col("tie").alias(TIE),
            reduce(lambda a, b: a.bitwiseOR(b), bits).alias(KIND_BITS),
            *(F.col(c.flat).alias(name_event_column(c)) for c in sides),
        ]
        conditions += [F.col(name_weight_column(kind)) > 0 for kind in sorted(kinds)]
    selected = events.where(reduce(lambda a, b: a | b, conditions)).select(*columns).where(_require_all(plan.key))
    if not plan.sequences:
        # There may be many events without a time. They all count at the same time, so sum them before the shuffle.
        sums = [F.sum(w).alias(w) for w in weights]
        untimed = selected.where(F.col(TIME) == UNTIMED).groupBy(TIME, *by).agg(*sums)
        selected = selected.where(F.col(TIME) != UNTIMED).unionByName(untimed, True)
    return selected.withColumn(IS_QUERY, F.lit(False))


def _require_all(columns: Seq[str]) -> Column:
    """Return a condition that all columns are not null."""
    return reduce(lambda a, b: a & b, (F.col(column).isNotNull() for column in columns))
