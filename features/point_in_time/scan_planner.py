"""Add statistics and sequences to rows: from sums and lists by day, and from sorted scans of the events of a day.

The cut of a row is in its cut day (`daily_counts.compute_cut_day`). What happened before this day comes from the sums
and lists of earlier days. That is all for features with the cut `day`. For features with the cut `time`, a scan adds
the events of the cut day before the cut. A scan computes features of one key, such as `user_id`, for all rows:

1. Convert each row to a query row whose time is the cut of the row: only strictly earlier events may count.
2. Union the query rows with the events, and with the last events of earlier days.
3. Repartition both by key and day. Sort each partition by key, day and time, with query rows before events of the same
   time. A key with very many rows is divided first (`hot_keys`).
4. Read each partition once (`scan.scan_batches`). Events update the running state of their key, and each query row gets
   the state of the strictly earlier events.

After the sort, the work is linear in the number of rows and events of the day. A join of rows with the events of their
key would be quadratic for keys with many rows and many events. On the other hand, each scan needs a shuffle and a sort.
So features share scans where they can (`scan_plans`).
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
from star_ctr.features.point_in_time import hot_keys
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
from star_ctr.features.point_in_time.hot_keys import (
    PIECE,
    HotKey,
    add_pieces,
    carry_counts,
    carry_events,
    drop_helpers,
    find_hot_keys,
)
from star_ctr.features.point_in_time.last_events import KIND_BITS, QUERY_TIME, LastEvents
from star_ctr.features.point_in_time.running_counts import RunningCounts
from star_ctr.features.point_in_time.scan import IS_QUERY, TIME, Kernel, scan_batches
from star_ctr.features.point_in_time.scan_plans import ScanPlan, list_inputs, number_bits, plan_scans
from star_ctr.features.point_in_time.sequences import list_sequence_fields, name_event_column, plan_sequence
from star_ctr.features.point_in_time.statistics import list_statistic_fields, plan_counts

ORDER, TIE = "_order", "_tie"
"""Event columns that order events of the same time, so that sequences are deterministic."""


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
        size: The approximate number of events and rows, or None if it is not known.
    """

    counts: DataFrame | None
    lists: DataFrame | None
    events: DataFrame | None
    size: int | None = None


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
    rows = plain = rows.withColumn(CUT_DAY, compute_cut_day(settings.zone))
    if history.counts is not None and (groups := list_groups(settings)):
        rows = add_daily_statistics(settings, rows, history.counts, groups, stack)
    if history.lists is not None:
        rows = add_day_sequences(settings, rows, history.lists)
    statistics = [s for s in settings.select_features(Statistic) if s.cut == "time"]
    sequences = [s for s in settings.select_features(Sequence) if s.cut == "time"]
    plans = plan_scans(statistics, sequences)
    if plans and history.events is not None and (len(plans) > 1 or _may_have_hot_keys(history)):
        events = history.events.persist()  # read by the search for hot keys and by each scan
        stack.callback(events.unpersist)
        history = history._replace(events=events)
    for plan in plans:
        if plan is plans[-1] and postprocess:
            return run_scan(settings, rows, history, plan, find_hot(settings, plain, history, plan), stack, postprocess)
        rows = run_scan(settings, rows, history, plan, find_hot(settings, plain, history, plan), stack)
    added = [n for n in rows.columns if n not in names and not n.startswith("_")]
    rows = rows.select(*(F.col(f"`{name}`") for name in [*names, *added]))
    return rows.mapInArrow(*postprocess) if postprocess else rows


def run_scan(
    settings: Settings,
    rows: DataFrame,
    history: History,
    plan: ScanPlan,
    hot: Seq[HotKey],
    stack: ExitStack,
    postprocess: ArrowFunction | None = None,
) -> DataFrame:
    """Run one scan and add its columns to `rows`.

    Args:
        settings: The data set.
        rows: As for `add_history`, with CUT_DAY and the bases of the statistics (`add_daily_statistics`).
        history: As for `add_history`.
        plan: The scan to run.
        hot: The hot keys of the scan.
        stack: As for `add_history`.
        postprocess: As for `add_history`.

    Returns:
        `rows` with the columns of the scan, or the result of `postprocess`.
    """
    assert history.events is not None
    both = _make_query_rows(settings, rows, plan)
    both = both.unionByName(_select_events(settings, rows, history.events, plan), True)
    if plan.sequences and history.lists is not None:
        both = both.unionByName(_select_last_events(settings, rows, history.lists, plan), True)
    key, text = [*plan.key, CUT_DAY], _make_text(plan)
    if hot:
        both = _divide(add_pieces(both, text, hot), plan, stack)
        key.append(PIECE)
        text = F.concat(text, F.lit("\x1f"), PIECE)
    # Query rows with a null in the key match no events. There may be many: spread them over all partitions.
    both = both.repartition(F.coalesce(text, F.col("impression_id").cast("string")))
    ties = [ORDER, TIE, "impression_id"] if plan.sequences else []
    both = both.sortWithinPartitions(*key, TIME, F.col(IS_QUERY).desc(), *ties)
    statistics = [plan_counts(s) for s in plan.statistics]
    sequences = [plan_sequence(s, bit) for s, bit in number_bits(plan)]
    fields = [*list_statistic_fields(plan.statistics), *list_sequence_fields(plan.sequences)]
    keep, names = rows.columns, [field.name for field in fields]

    def scan_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        kernels: list[Kernel] = [RunningCounts(key, statistics)] if statistics else []
        kernels += [LastEvents(key, sequences)] if sequences else []
        results = scan_batches(batches, kernels, keep, names)
        return postprocess.function(results) if postprocess else results

    schema = postprocess.schema if postprocess else StructType([*rows.schema.fields, *fields])
    return both.mapInArrow(scan_partition, schema)


def _make_text(plan: ScanPlan) -> Column:
    """Return the key and day of each row as one text; null for a row with a null in the key."""
    return F.when(_require_all(plan.key), F.concat_ws("\x1f", *plan.key, CUT_DAY))


def find_hot(settings: Settings, rows: DataFrame, history: History, plan: ScanPlan) -> list[HotKey]:
    """Return the hot keys of a scan, from a sample of `rows` and of the events; none if there are few of both."""
    if history.events is None or not _may_have_hot_keys(history):
        return []
    day = compute_known_day(settings.zone).alias(CUT_DAY)
    types, key = dict(rows.dtypes), _make_text(plan).alias("key")
    events, asked = (frame.sample(hot_keys.SAMPLE, seed=0) for frame in (history.events, rows))
    own = events.select(F.col("t").alias(TIME), day, *(F.col(c).try_cast(types[c]).alias(c) for c in plan.key))
    queries = asked.select(compute_cut(settings).alias(TIME), key)
    return find_hot_keys([queries, own.select(TIME, key)], settings.spark.shuffle_partitions)


def _may_have_hot_keys(history: History) -> bool:
    """Return whether there are enough rows and events for hot keys."""
    return history.size is None or history.size > hot_keys.LEAST_ROWS


def _divide(both: DataFrame, plan: ScanPlan, stack: ExitStack) -> DataFrame:
    """Add the events with which the pieces of hot keys begin."""
    key, divided = [*plan.key, CUT_DAY], drop_helpers(both)
    events = hot_keys.select_hot_events(both).persist()
    stack.callback(events.unpersist)
    if plan.statistics:
        by, weights, since = list_inputs(plan)
        carried = carry_counts(events, [*dict.fromkeys([*key, *by])], weights, since)
        divided = divided.unionByName(carried, True)
    if plan.sequences:
        masks = [(s.mask, s.length) for s in (plan_sequence(s, bit) for s, bit in number_bits(plan))]
        values = [name_event_column(c) for c in sorted({c for s in plan.sequences for c in s.columns})]
        divided = divided.unionByName(carry_events(events, key, masks, [ORDER, TIE], values), True)
    return divided


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
    by, weights, _ = list_inputs(plan)
    day = compute_known_day(settings.zone).alias(CUT_DAY)
    columns = [F.col("t").alias(TIME), day, *(F.col(c).try_cast(types[c]).alias(c) for c in by), *map(F.col, weights)]
    conditions = [F.col(w) != 0 for w in weights]
    if plan.sequences:
        bits = [
            F.when(F.col(name_weight_column(kind)) > 0, F.lit(1 << (first + i)).cast("long")).otherwise(0)
            for sequence, first in number_bits(plan)
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
    for sequence, first in number_bits(plan):
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
