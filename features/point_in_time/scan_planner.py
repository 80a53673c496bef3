"""Statistics and sequences of all rows in few sorted passes: one for each key and cut.

A pass unites the events with the rows, which ask for what is known of their key at their cut, brings both together by
key, sorts them by time and reads them once (`asof`). Work is linear in events and rows, however long a history; a join
of histories with rows would be quadratic for the keys with most of both. What one key's pass can count by more columns,
as `user x category` where there is `user`, needs no pass of its own; the sequences go along with the user's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Seq
from functools import reduce
from typing import NamedTuple

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from star_ctr.conf.settings.features import Cut, Sequence, Statistic, flatten_column_name
from star_ctr.conf.settings.root import Settings
from star_ctr.features.point_in_time.events import UNTIMED, compute_cut, name_weight_column
from star_ctr.features.point_in_time.last_events import KIND_BITS, REQUEST_TIME, LastEvents
from star_ctr.features.point_in_time.running_counts import CUT, DAY, RunningCounts
from star_ctr.features.point_in_time.scan import IS_QUERY, TIME, Kernel, scan_batches
from star_ctr.features.point_in_time.sequences import list_sequence_fields, name_event_column, plan_sequence
from star_ctr.features.point_in_time.statistics import list_statistic_fields, plan_counts

ORDER, TIE = "_order", "_tie"
USER = ("user_id",)


class _ArrowScan(NamedTuple):
    """What `DataFrame.mapInArrow` takes."""

    function: Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]
    schema: StructType


class ScanPlan(NamedTuple):
    """What is counted and gathered together: the columns of its key, under the names of rows."""

    key: tuple[str, ...]
    cut: Cut
    statistics: list[Statistic]
    sequences: list[Sequence]

    @property
    def has_day_counts(self) -> bool:
        """Whether a pass by time has statistics that are cut by day."""
        return any(s.cut != self.cut for s in self.statistics)


def add_history(settings: Settings, rows: DataFrame, events: DataFrame, then: _ArrowScan | None = None) -> DataFrame:
    """`rows` with the columns of every declared statistic and sequence, or what `then` makes of them.

    `rows` has impression_id, ts, ds, user_id and all columns that statistics count by (null in one of them: null in the
    statistic); `events` as `timeline.events` gives them, with these and the columns that sequences take along. `then`
    is done where the last pass is, so that its lists need not go through Spark.
    """
    every = plan_scans(settings.select_features(Statistic), settings.select_features(Sequence))
    for each in every:
        rows = run_scan(settings, rows, events, each, then if each is every[-1] else None)
    return rows if every or then is None else rows.mapInArrow(*then)


def plan_scans(statistics: Seq[Statistic], sequences: Seq[Sequence]) -> list[ScanPlan]:
    """The passes that these need: a key for each group of columns that holds no other group.

    Sequences of a key are gathered at the pass's own cut, while a pass by time can count up to the start of the day as
    well. Passes with sequences come last, so that no later one moves the lists.
    """
    groups = {s.name: tuple(sorted(flatten_column_name(c) for c in s.by)) for s in statistics}
    every = dict.fromkeys(([USER] if sequences else []) + list(groups.values()))
    keys = [group for group in every if not any(set(other) < set(group) for other in every)]
    of = {name: next(key for key in keys if set(key) <= set(group)) for name, group in groups.items()}
    found = []
    for key in keys:
        counts = [s for s in statistics if of[s.name] == key]
        gathered = [s for s in sequences if key == USER]
        cut: Cut = "time" if "time" in {*(s.cut for s in counts), *(s.cut for s in gathered)} else "day"
        found.append(ScanPlan(key, cut, counts, [s for s in gathered if s.cut == cut]))
        if others := [s for s in gathered if s.cut != cut]:
            found.append(ScanPlan(key, "day", [], others))
    return sorted(found, key=lambda p: bool(p.sequences))


def run_scan(
    settings: Settings, rows: DataFrame, events: DataFrame, what: ScanPlan, then: _ArrowScan | None = None
) -> DataFrame:
    """`rows` with the columns of one pass, or what `then` makes of them."""
    both = _make_query_rows(settings, rows, what).unionByName(_select_events(settings, rows, events, what), True)
    # Rows without a key learn nothing: they are spread, as they may be many.
    key = F.concat_ws("\x1f", *what.key) if len(what.key) > 1 else F.col(what.key[0]).cast("string")
    both = both.repartition(F.when(_require_all(what.key), key).otherwise(F.col("impression_id").cast("string")))
    ties = [ORDER, TIE, "impression_id"] if what.sequences else []
    both = both.sortWithinPartitions(*what.key, TIME, F.col(IS_QUERY).desc(), *ties)
    statistics = [plan_counts(s, what.cut) for s in what.statistics]
    sequences = [plan_sequence(s, list(settings.history)) for s in what.sequences]
    fields = [*list_statistic_fields(what.statistics), *list_sequence_fields(what.sequences)]
    keep, names = rows.columns, [field.name for field in fields]

    def known(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        kernels: list[Kernel] = [RunningCounts(what.key, statistics)] if statistics else []
        kernels += [LastEvents(what.key[0], sequences)] if sequences else []
        found = scan_batches(batches, kernels, keep, names)
        return then.function(found) if then else found

    return both.mapInArrow(known, then.schema if then else StructType([*rows.schema.fields, *fields]))


def _make_query_rows(settings: Settings, rows: DataFrame, what: ScanPlan) -> DataFrame:
    """Rows as requests, with no more columns beside their own than a pass reads."""
    times = {TIME: compute_cut(settings, what.cut)}
    times |= {CUT: compute_cut(settings, "day")} if what.has_day_counts else {}
    times |= {REQUEST_TIME: F.unix_micros("ts")} if what.sequences else {}
    return rows.select("*", F.lit(True).alias(IS_QUERY), *(time.alias(name) for name, time in times.items()))


def _select_events(settings: Settings, rows: DataFrame, events: DataFrame, what: ScanPlan) -> DataFrame:
    """Events that count in a pass, with no more columns than it reads; what statistics count by is as rows have it."""
    types = dict(rows.dtypes)
    by = list(dict.fromkeys((*what.key, *(flatten_column_name(column) for s in what.statistics for column in s.by))))
    weights = list(dict.fromkeys(name_weight_column(kind) for s in what.statistics for kind in (*s.kinds(), *s.since)))
    columns = [F.col("t").alias(TIME), *(F.col(c).try_cast(types[c]).alias(c) for c in by), *map(F.col, weights)]
    counts = [F.col(w) != 0 for w in weights]
    if what.has_day_counts:
        columns.append(F.unix_date(F.to_date(F.from_utc_timestamp(F.timestamp_micros("t"), settings.zone))).alias(DAY))
    if what.sequences:
        kinds = {kind for s in what.sequences for kind in s.of}
        bits = (
            F.when(F.col(name_weight_column(k)) > 0, 1 << i).otherwise(0)
            for i, k in enumerate(settings.history)
            if k in kinds
        )
        sides = sorted({c for s in what.sequences for c in s.columns})
        columns += [
            F.col("order").alias(ORDER),
            F.col("tie").alias(TIE),
            reduce(lambda a, b: a.bitwiseOR(b), bits).alias(KIND_BITS),
            *(F.col(flatten_column_name(c)).alias(name_event_column(c)) for c in sides),
        ]
        counts += [F.col(name_weight_column(kind)) > 0 for kind in sorted(kinds)]
    happened = events.where(reduce(lambda a, b: a | b, counts)).select(*columns).where(_require_all(what.key))
    if not what.sequences:
        # What lies before the first day has one time and is much: it is summed before it is moved.
        sums = [F.sum(w).alias(w) for w in weights]
        before = happened.where(F.col(TIME) == UNTIMED).groupBy(TIME, *by).agg(*sums)
        happened = happened.where(F.col(TIME) != UNTIMED).unionByName(before, True)
    return happened.withColumn(IS_QUERY, F.lit(False))


def _require_all(columns: Seq[str]) -> Column:
    return reduce(lambda a, b: a & b, (F.col(column).isNotNull() for column in columns))
