"""New rows of logs without days."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from star_ctr.features.cleaning.first_seen import find_new_events, find_new_rows

EVENT = "user_id string, item_id string, behaviour string, order long"


@pytest.mark.spark
def test_old_behaviours_are_new_only_if_they_happened_again(spark: SparkSession) -> None:
    """A new column and other positions are no new events; of equal events, the last ones are new."""
    known = [("p", "a", "watch", 1), ("p", "a", "watch", 2), ("p", "b", "watch", 3), (None, "b", "watch", 4)]
    again = [("p", "c", "watch", 1, "x"), *((u, i, b, order + 7, "x") for u, i, b, order in known)]
    again += [("p", "a", "watch", 90, "x"), (None, "b", "like", 4, "x")]
    rows = spark.createDataFrame(again, f"{EVENT}, app string")
    found = find_new_events(rows, spark.createDataFrame(known, EVENT), "2026-03-02").collect()
    assert sorted((r.item_id, r.behaviour, r.order, r.app, r.ds) for r in found) == [
        ("a", "watch", 90, "x", "2026-03-02"), ("b", "like", 4, "x", "2026-03-02"), ("c", "watch", 1, "x", "2026-03-02"),
    ]  # fmt: skip


@pytest.mark.spark
def test_changed_attributes_are_new_rows(spark: SparkSession) -> None:
    known = spark.createDataFrame([("a", "red"), ("b", "blue"), ("c", None)], "key string, color string")
    rows = spark.createDataFrame([("a", "red"), ("b", "green"), ("d", "red"), ("c", None)], "key string, color string")
    found = find_new_rows(rows, known, "2026-03-02").collect()
    assert sorted((r.key, r.color) for r in found) == [("b", "green"), ("d", "red")]
