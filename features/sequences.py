"""Behaviour sequences of every impression's user, as known at the cut: one sorted pass over all.

Events and impressions are united, brought together by user, sorted by time and read once (`asof`). Work is
linear in events and impressions, however long a history; a join of histories with impressions would be
quadratic for the users who do most.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Seq
from functools import reduce

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DoubleType, StringType, StructField, StructType

from star_ctr.conf.features import Cut, Sequence, flat
from star_ctr.conf.settings import Settings
from star_ctr.features.asof import KIND_BITS, REQUEST, REQUEST_TIME, TIME, Wanted, last_events
from star_ctr.features.timeline import cut_micros, weight

ORDER = "_order"
TIE = "_tie"


def side_column(sequence: str, column: str) -> str:
    """The list column that a sequence has for one column of its events."""
    return f"{sequence}__{flat(column)}"


def gap_column(sequence: str) -> str:
    """The list column of seconds between event and impression (null: the event has no time)."""
    return f"{sequence}__gap"


def behaviour_column(sequence: str) -> str:
    """The list column that says which kind of event each one was."""
    return f"{sequence}__behaviour"


def add_sequences(settings: Settings, rows: DataFrame, events: DataFrame) -> DataFrame:
    """`rows` with the list columns of every declared sequence; `events` as `timeline.events` gives them."""
    for cut in ("time", "day"):
        chosen = [s for s in settings.of_kind(Sequence) if s.cut == cut]
        if chosen:
            rows = sorted_pass(settings, rows, events, chosen, cut)
    return rows


def sorted_pass(
    settings: Settings, rows: DataFrame, events: DataFrame, sequences: Seq[Sequence], cut: Cut
) -> DataFrame:
    """The sequences of one cut, added to `rows`."""
    kinds = list(settings.history)
    sides = sorted({flat(c) for s in sequences for c in s.columns})
    present = [F.when(F.col(weight(k)) > 0, F.lit(1 << i)).otherwise(F.lit(0)) for i, k in enumerate(kinds)]
    happened = events.select(
        "user_id",
        F.col("t").alias(TIME),
        F.lit(False).alias(REQUEST),
        F.lit(0).cast("long").alias(REQUEST_TIME),
        F.col("order").alias(ORDER),
        F.col("tie").alias(TIE),
        reduce(lambda a, b: a.bitwiseOR(b), present).cast("int").alias(KIND_BITS),
        *(F.col(c).alias(f"_e_{c}") for c in sides),
    )
    wanted = [_wanted(s, kinds) for s in sequences]
    needed = reduce(lambda a, b: a | b, (w.mask for w in wanted))
    happened = happened.where(F.col(KIND_BITS).bitwiseAND(F.lit(needed)) != 0)
    asked = rows.select(
        "*",
        cut_micros(settings, cut).alias(TIME),
        F.lit(True).alias(REQUEST),
        F.unix_micros("ts").alias(REQUEST_TIME),
        F.lit(0).alias(KIND_BITS),
    )
    both = asked.unionByName(happened, allowMissingColumns=True)
    both = both.repartition("user_id").sortWithinPartitions(
        "user_id", TIME, F.col(REQUEST).desc(), ORDER, TIE, "impression_id"
    )
    keep = rows.columns

    def gather(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return last_events(batches, "user_id", wanted, keep)

    return both.mapInArrow(gather, StructType([*rows.schema.fields, *_fields(sequences)]))


def _wanted(sequence: Sequence, kinds: list[str]) -> Wanted:
    return Wanted(
        kinds=tuple(kinds.index(k) for k in sequence.of),
        names=tuple(sequence.of),
        length=sequence.length,
        columns={f"_e_{flat(c)}": side_column(sequence.name, c) for c in sequence.columns},
        gap=gap_column(sequence.name) if sequence.gap else None,
        behaviour=behaviour_column(sequence.name) if sequence.behaviour else None,
    )


def _fields(sequences: Seq[Sequence]) -> list[StructField]:
    fields = []
    for s in sequences:
        fields += [StructField(side_column(s.name, c), ArrayType(StringType())) for c in s.columns]
        fields += [StructField(gap_column(s.name), ArrayType(DoubleType()))] if s.gap else []
        fields += [StructField(behaviour_column(s.name), ArrayType(StringType()))] if s.behaviour else []
    return fields
