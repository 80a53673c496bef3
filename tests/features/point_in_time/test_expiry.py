"""Expiry of keys: merged parts of the state count as if every day were separate."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from star_ctr.features.point_in_time.expiry import DAY, FIRST, LAST, SEGMENT, select_unexpired, split_segments

pytestmark = pytest.mark.spark
SCHEMA = "key int, _day int, _first int, _last int, rows array<int>"
LAST_DAY = 12


def merge(parts: DataFrame, end: int, expire_days: int) -> DataFrame:
    grouped = split_segments(parts, ["key"], F.lit(end), expire_days).groupBy("key", DAY, SEGMENT)
    rows = F.flatten(F.collect_list("rows")).alias("rows")
    return grouped.agg(F.min(FIRST).alias(FIRST), F.max(LAST).alias(LAST), rows).drop(SEGMENT)


def count_unexpired(events: list[tuple[int, int]], cut: int, expire_days: int) -> list[int]:
    """Return the numbers of the events that count at a cut: from the newest back to the first gap."""
    visible = sorted((day, number) for number, (day, later) in enumerate(events) if day + later < cut)
    found, following = [], cut
    for day, number in reversed(visible):
        if following - day > expire_days:
            break
        following = day
        found.append(number)
    return sorted(found)


KEYS = st.lists(
    st.lists(st.tuples(st.integers(0, LAST_DAY - 1), st.sampled_from([0, 0, 0, 1, 4])), min_size=1, max_size=6),
    min_size=40,
    max_size=40,
)


@settings(max_examples=6, deadline=None)
@given(KEYS, st.integers(1, 4), st.lists(st.integers(1, LAST_DAY), min_size=1, max_size=2, unique=True))
def test_merged_parts_count_as_separate_days(
    spark: SparkSession, keys: list[list[tuple[int, int]]], expire_days: int, ends: list[int]
) -> None:
    """Each event has a log day, and a number of days until it becomes known. Blocks of days end at `ends`."""
    rows = [
        (key, day + later, day, day, [n]) for key, events in enumerate(keys) for n, (day, later) in enumerate(events)
    ]
    parts = spark.createDataFrame(rows, SCHEMA)
    cuts = range(max(ends), LAST_DAY + 6)
    blocks = [0, *sorted(ends)]
    merged: Any = parts.where(F.col(FIRST) >= blocks[-1])
    for start, end in zip(blocks, blocks[1:], strict=False):
        block = merge(parts.where((F.col(FIRST) >= start) & (F.col(FIRST) < end)), end, expire_days)
        merged = merged.unionByName(block)
    # A merge of merged parts, as in larger roll-ups and bases.
    is_old = F.col(LAST) < blocks[-1]
    merged = merged.where(~is_old).unionByName(merge(merged.where(is_old), blocks[-1], expire_days))
    asked = merged.crossJoin(spark.range(cuts.start, cuts.stop).select(F.col("id").cast("int").alias("cut")))
    found = select_unexpired(asked.where(F.col(DAY) < F.col("cut")), ["key", "cut"], F.col("cut"), expire_days)
    counted: dict[tuple[int, int], list[int]] = {}
    for row in found.collect():
        counted.setdefault((row.key, row.cut), []).extend(row.rows)
    for key, events in enumerate(keys):
        for cut in cuts:
            assert sorted(counted.get((key, cut), [])) == count_unexpired(events, cut, expire_days), (events, cut)


def test_a_merge_drops_expired_keys(spark: SparkSession) -> None:
    days = {0: [1], 1: [1, 9], 2: [7, 9], 3: [9]}
    parts = spark.createDataFrame([(key, d, d, d, [d]) for key, found in days.items() for d in found], SCHEMA)
    found = {(r.key, tuple(sorted(r.rows))) for r in merge(parts, 11, 2).collect()}
    assert found == {(1, (9,)), (2, (7, 9)), (3, (9,))}
