"""Spread the rows of hot keys over the tasks of a scan.

A scan sorts the rows of one key and day in one task. If a key has many of all rows, this task takes far longer than the
others. The rows of such a hot key and day are therefore divided into pieces by time:

1. Find the keys with more than a fraction of the rows of a task, and times that divide the rows of each into pieces.
2. Give each row the number of its piece. A piece only has rows before those of the next piece.
3. Each piece begins with what happened in the pieces before it: the sums of their events, and their last events.

So a query row gets the same state as in a scan of all rows of its key. Sums are integers and the order of events is
total, so the results are the same to the bit, however the rows are divided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from functools import reduce
from typing import NamedTuple

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from star_ctr.features.point_in_time.events import UNTIMED
from star_ctr.features.point_in_time.last_events import KIND_BITS
from star_ctr.features.point_in_time.scan import IS_QUERY, TIME

PIECE = "_piece"
"""Column with the number of the piece of a row, 0 for the first piece and for keys that are not hot."""
HOT, PIECES = 4, 8
"""A key is hot if it has more than a quarter of the rows of a task. A piece has an eighth of them."""
LEAST_ROWS = 250_000
"""Minimum number of rows of a hot key. With fewer rows, pieces cost more than they save."""
SAMPLE = 1 / 16
"""Share of the rows in which hot keys are searched."""
_MAX_PIECES = 256
_LAST_PIECE, _KEY = "_last_piece", "_hot_key"
_LOW_BITS = 32
_LOW = (1 << _LOW_BITS) - 1
_LARGEST_HIGH = 1 << 29


class HotKey(NamedTuple):
    """A hot key.

    Attributes:
        key: The values of the key and the day, as one text.
        bounds: The times that divide its rows, ascending.
    """

    key: str
    bounds: list[int]


def find_hot_keys(frames: Seq[DataFrame], tasks: int) -> list[HotKey]:
    """Find the hot keys of a scan.

    Args:
        frames: A sample of the query rows and events, each with `key` (null for rows without a key) and TIME.
        tasks: The number of tasks.

    Returns:
        At most `HOT * tasks` keys.
    """
    both = reduce(DataFrame.unionByName, frames).where(F.col("key").isNotNull())
    counts = both.groupBy("key").agg(F.count("*").alias("rows"))
    found = counts.agg(F.max("rows").alias("largest"), F.sum("rows").alias("all")).first()
    assert found is not None
    total, least = found.all or 0, LEAST_ROWS * SAMPLE
    limit = max(total / (HOT * tasks), least)
    if (found.largest or 0) <= limit:
        return []
    hot, size = counts.where(F.col("rows") > limit), max(total / (PIECES * tasks), least)
    slices = min(PIECES * tasks, _MAX_PIECES)
    shares = F.array(*(F.lit(k / slices) for k in range(1, slices)))
    times = both.join(F.broadcast(hot), "key").groupBy("key", "rows").agg(F.percentile_approx(TIME, shares).alias("at"))
    keys = []
    for row in times.collect():
        pieces = min(math.ceil(row.rows / size), slices)
        keys.append(HotKey(row.key, [row.at[k * slices // pieces - 1] for k in range(1, pieces)]))
    return keys


def add_pieces(rows: DataFrame, key: Column, hot: Seq[HotKey]) -> DataFrame:
    """Add PIECE to query rows and events.

    Args:
        rows: Query rows and events with TIME.
        key: The key of each row, as in `HotKey.key`; null for rows without a key.
        hot: The hot keys.

    Returns:
        The rows with PIECE, and the columns that `carry_counts` and `carry_events` need.
    """
    bounds = rows.sparkSession.createDataFrame(list(hot), f"{_KEY} string, _bounds array<long>")
    joined = rows.join(F.broadcast(bounds), key == F.col(_KEY), "left")
    piece = F.size(F.filter("_bounds", lambda bound: bound <= F.col(TIME)))
    return joined.withColumns(
        {PIECE: F.when(F.col(_KEY).isNotNull(), piece).otherwise(0), _LAST_PIECE: F.size("_bounds")}
    ).drop("_bounds")


def select_hot_events(rows: DataFrame) -> DataFrame:
    """Return the events of hot keys, from rows of `add_pieces`."""
    return rows.where(~F.col(IS_QUERY) & F.col(_KEY).isNotNull())


def drop_helpers(rows: DataFrame) -> DataFrame:
    """Drop all columns that `add_pieces` added, except for PIECE."""
    return rows.drop(_KEY, _LAST_PIECE)


def carry_counts(events: DataFrame, by: Seq[str], weights: Seq[str], since: Seq[str]) -> DataFrame:
    """Return events with which pieces begin: the sums of the events of the pieces before.

    Args:
        events: Events from `select_hot_events`.
        by: The columns of the key and of all groups.
        weights: The weight columns.
        since: The weight columns whose last time is needed.

    Returns:
        Events with `by`, PIECE, TIME, IS_QUERY and the weights. Of each group, there are events without a time that
        have the sums, and an event for the last time of each column of `since`.
    """
    numbers = {name: f"_w{k}" for k, name in enumerate(weights)}
    aggregates = []
    for name, n in numbers.items():
        aggregates.append(F.coalesce(F.sum(F.shiftright(name, _LOW_BITS)), F.lit(0)).cast("long").alias(f"{n}_high"))
        aggregates.append(F.coalesce(F.sum(F.col(name).bitwiseAND(_LOW)), F.lit(0)).cast("long").alias(f"{n}_low"))
        aggregates.append(F.max(F.when(F.col(name) > 0, F.col(TIME))).alias(f"{n}_last"))
    sums = events.groupBy(_KEY, _LAST_PIECE, *by, PIECE).agg(*aggregates)
    order = Window.partitionBy(_KEY, *by).orderBy(PIECE)
    before = order.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    total = {}
    for name in (f"{n}_{part}" for n in numbers.values() for part in ("high", "low")):
        total[name] = F.sum(name).over(before).cast("long")
    total |= {f"{n}_last": F.max(f"{n}_last").over(before) for n in numbers.values()}
    until = F.coalesce(F.lead(PIECE).over(order), F.col(_LAST_PIECE))
    sums = sums.withColumns(total | {"_until": until}).where(F.col("_until") > F.col(PIECE))
    sums = sums.withColumn(PIECE, F.explode(F.sequence(F.col(PIECE) + 1, "_until")))
    high = {f"{n}_high": F.col(f"{n}_high") + F.shiftright(f"{n}_low", _LOW_BITS) for n in numbers.values()}
    # A sum that may exceed 64 bits becomes several events, whose sums the scan adds up without overflow.
    parts = [F.ceil(F.abs(F.col(h)) / _LARGEST_HIGH).cast("int") for h in high]
    sums = sums.withColumns(high).withColumn("_count", F.greatest(F.lit(1), F.lit(1), *parts))
    sums = sums.withColumn("_k", F.explode(F.sequence(F.lit(0), F.col("_count") - 1)))
    values = {}
    for name, n in numbers.items():
        quotient = F.expr(f"`{n}_high` div _count")
        rest = F.shiftleft(F.col(f"{n}_high") - quotient * F.col("_count"), _LOW_BITS)
        rest += F.col(f"{n}_low").bitwiseAND(_LOW)
        if name in since:
            rest -= F.when(F.col(f"{n}_last").isNotNull(), 1).otherwise(0)
        values[name] = F.shiftleft(quotient, _LOW_BITS) + F.when(F.col("_k") == 0, rest).otherwise(0)
    found = sums.select(*by, PIECE, F.lit(UNTIMED).cast("long").alias(TIME), *(v.alias(n) for n, v in values.items()))
    for name in since:
        last = sums.where((F.col("_k") == 0) & F.col(f"{numbers[name]}_last").isNotNull())
        time = F.col(f"{numbers[name]}_last").alias(TIME)
        found = found.unionByName(last.select(*by, PIECE, time, F.lit(1).cast("long").alias(name)), True)
    return found.withColumn(IS_QUERY, F.lit(False))


def carry_events(
    events: DataFrame, key: Seq[str], masks: Seq[tuple[int, int]], order: Seq[str], values: Seq[str]
) -> DataFrame:
    """Return events with which pieces begin: the last events of the pieces before.

    Args:
        events: Events from `select_hot_events`.
        key: The columns of the key.
        masks: The kind bits and the length of each sequence.
        order: The columns that order events of the same time.
        values: The columns of events to keep.

    Returns:
        Events with `key`, PIECE, TIME, IS_QUERY, KIND_BITS, `order` and `values`; an event per sequence that it is in.
    """
    entries = [
        F.struct(F.lit(k).alias("_s"), F.col(KIND_BITS).bitwiseAND(mask).alias("_bits"), F.lit(length).alias("_length"))
        for k, (mask, length) in enumerate(masks)
    ]
    kept = [_KEY, _LAST_PIECE, *key, PIECE, TIME, *order, *values]
    events = events.select(*kept, F.inline(F.array(*entries))).where(F.col("_bits") != 0)
    group = [_KEY, "_s", PIECE]
    newest = Window.partitionBy(*group).orderBy(*(F.desc(c) for c in (TIME, *order)))
    most = max(length for _, length in masks)
    last = events.withColumn("_rank", F.row_number().over(newest)).where(F.col("_rank") <= most)
    # An event is needed in each later piece before which fewer than `_length` events follow it.
    sizes = events.groupBy(*group).agg(F.count("*").alias("_n"))
    before = Window.partitionBy(_KEY, "_s").orderBy(PIECE)
    sizes = sizes.withColumn("_sum", F.sum("_n").over(before.rowsBetween(Window.unboundedPreceding, Window.currentRow)))
    lists = sizes.groupBy(_KEY, "_s").agg(F.array_sort(F.collect_list(F.struct(PIECE, "_sum"))).alias("_sums"))
    joined = last.join(F.broadcast(lists), [_KEY, "_s"])
    own = F.element_at(F.filter("_sums", lambda s: s[PIECE] == F.col(PIECE)), 1)["_sum"]
    # The last piece that has fewer than `_length` events between this event and its start.
    allowed = own + F.col("_length") - F.col("_rank")
    beyond = F.try_element_at(F.filter("_sums", lambda s: s["_sum"] > allowed), F.lit(1))[PIECE]
    until = F.least(F.coalesce(beyond, F.col(_LAST_PIECE)), F.col(_LAST_PIECE))
    joined = joined.where(F.col("_rank") <= F.col("_length")).withColumn("_until", until)
    joined = joined.where(F.col("_until") > F.col(PIECE))
    joined = joined.withColumn(PIECE, F.explode(F.sequence(F.col(PIECE) + 1, "_until")))
    kind_bits = F.col("_bits").alias(KIND_BITS)
    return joined.select(*key, PIECE, TIME, *order, *values, kind_bits, F.lit(False).alias(IS_QUERY))
