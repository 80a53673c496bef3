"""Outcomes as events: fixed-point values, missing values, and log columns named like event columns."""

from __future__ import annotations

import datetime as dt
import math
from contextlib import ExitStack

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.load import load
from star_ctr.conf.settings.features import History, Sequence, Statistic
from star_ctr.features.point_in_time.attributes import join_attributes
from star_ctr.features.point_in_time.events import LARGEST_OUTCOME, build_events
from star_ctr.features.point_in_time.scan_planner import add_history, compute_history

pytestmark = pytest.mark.spark

VALUES = [1.5, math.nan, math.inf, -math.inf, None, 1e18, -1e300, LARGEST_OUTCOME, -LARGEST_OUTCOME, 1e-6, 2e-7, -2.25]
COUNTED = [1.5, 0, 0, 0, 0, 0, 0, LARGEST_OUTCOME, -LARGEST_OUTCOME, 1e-6, 0, -2.25]


def test_extreme_outcomes_count_as_missing(spark: SparkSession) -> None:
    """The log also has text columns named like internal columns: `t`, `order`, `tie`, `_key` and others."""
    conf = load("kuairand", ["paths.logs=/none"])
    conf = conf.model_copy(
        update={
            "zone": "UTC",
            "history": {"spend_max": History(outcome="spend"), "shown": History(impressions=True)},
            "features": [
                Statistic(name="s", kind="statistic", by=["user_id", "items.price_max"], counts=["spend_max", "shown"], since=["shown"], cut="time"),
                Sequence(name="seen", kind="sequence", of=["shown"], columns={"items.price_max": "p"}, length=20, cut="time"),
            ],
        }
    )  # fmt: skip
    log_columns = ("t", "order", "tie", "_key", "_from", "_to", "hour", "weekday")
    start = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    impressions = spark.createDataFrame(
        [
            (f"{k:02d}", "u", "i", "d", 0.0, "2026-01-02", start + dt.timedelta(seconds=k), value, *log_columns)
            for k, value in enumerate(VALUES)
        ],
        "impression_id string, user_id string, item_id string, domain string, label double, ds string, ts timestamp, "
        "_outcome_spend double, " + ", ".join(f"`{name}` string" for name in log_columns),
    )
    items = spark.createDataFrame([("i", "2026-01-01", "cheap")], "key string, ds string, price_max string")
    impressions = join_attributes(
        impressions, items, "item_id", "items", {"items_price_max": "price_max"}, "day_before"
    )
    assert {"_key", "_from", "_to"} <= set(impressions.columns)
    rows = impressions.select("impression_id", "ds", "ts", "user_id", "item_id", "domain", "label", "items_price_max")
    with ExitStack() as stack:
        known = build_events(conf, impressions, None, None)
        found = add_history(conf, rows, compute_history(conf, known), stack).orderBy("impression_id").collect()
    for k, row in enumerate(found):
        assert row["items_price_max"] == "cheap"
        assert row["s__shown"] == k
        assert row["s__spend_max"] == pytest.approx(sum(COUNTED[:k]), rel=1e-15, abs=1e-15)
        assert row["s__since_shown"] == (1.0 if k else None)
        assert row["seen__items_price_max"] == ["cheap"] * k
    events = build_events(
        conf, impressions.withColumn("_outcome_spend", F.col("_outcome_spend").cast("string")), None, None
    )
    assert events.where(F.col("_n_spend_max") != 0).count() == sum(1 for value in COUNTED if value)
