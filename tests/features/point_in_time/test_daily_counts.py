"""Statistics with the cut `day`: keys of groups, sums beyond 64 bits, and joins of many groups."""

from __future__ import annotations

import datetime as dt
from contextlib import ExitStack
from fractions import Fraction
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.load import load
from star_ctr.conf.settings.features import History, Statistic
from star_ctr.conf.settings.root import Settings
from star_ctr.features.point_in_time import daily_statistics
from star_ctr.features.point_in_time.daily_counts import (
    CUT_DAY,
    compute_cut_day,
    list_groups,
    make_key,
    sum_by_day,
)
from star_ctr.features.point_in_time.daily_statistics import add_daily_statistics
from star_ctr.features.point_in_time.events import LARGEST_OUTCOME, LOG_DAY, SCALE

pytestmark = pytest.mark.spark


def configure(*features: Statistic, **history: History) -> Settings:
    conf = load("kuairand", ["paths.logs=/none"])
    return conf.model_copy(update={"zone": "UTC", "history": history, "features": list(features)})


def count(conf: Settings, rows: Any, events: Any) -> list[dict[str, Any]]:
    groups = list_groups(conf)
    with ExitStack() as stack:
        daily = sum_by_day(conf, events.withColumn(LOG_DAY, F.lit("2026-01-01")), groups)
        rows = rows.withColumn(CUT_DAY, compute_cut_day(conf.zone))
        found = add_daily_statistics(conf, rows, daily, groups, stack).orderBy("impression_id").collect()
    return [row.asDict() for row in found]


def test_different_values_have_different_keys(spark: SparkSession) -> None:
    pairs = [("a", "b:c"), ("a:b", "c"), ("", "1:a"), ("1:", "a"), ("1", "a"), (None, "a"), ("a", None), ("", "")]
    rows = spark.createDataFrame(pairs, "x string, y string").select(make_key([F.col("x"), F.col("y")]).alias("key"))
    found = [row.key for row in rows.collect()]
    assert found.count(None) == 2
    assert len(set(found)) == len(pairs) - 1


@pytest.mark.parametrize("sign", [1, -1])
def test_sums_beyond_64_bits_are_exact(spark: SparkSession, sign: int) -> None:
    """100 outcomes of the maximum value and a small one: in millionths, their sum is ten times the int64 maximum."""
    largest = int(LARGEST_OUTCOME) * SCALE
    amounts = [sign * (largest - n * n) for n in range(100)] + [sign * 3]
    noon = int(dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC).timestamp()) * 1_000_000
    events = spark.createDataFrame(
        [(noon + n % 3 * 86_400_000_000, "u", amount) for n, amount in enumerate(amounts)],
        "t long, user_id string, _n_spend long",
    )
    rows = spark.createDataFrame(
        [("i", dt.datetime(2026, 1, 9, tzinfo=dt.UTC), "2026-01-09", "u")],
        "impression_id string, ts timestamp, ds string, user_id string",
    )
    conf = configure(
        Statistic(name="all", kind="statistic", by=["user_id"], counts=["spend"]),
        Statistic(name="half", kind="statistic", by=["user_id"], counts=["spend"], half_life_days=8),
        spend=History(outcome="spend"),
    )
    (found,) = count(conf, rows, events)
    assert found["all__spend"] == float(Fraction(sum(amounts))) / SCALE
    days = [Fraction(sum(amounts[k::3])) * Fraction(2.0 ** ((k - 8) / 8)) for k in range(3)]
    assert found["half__spend"] == pytest.approx(float(sum(days)) / SCALE, rel=1e-14)


def test_joins_of_many_and_of_hot_groups_give_the_same_rows(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the rows have the same item, and some have none."""
    day, n = dt.datetime(2026, 1, 9, 12, tzinfo=dt.UTC), 3000
    items = [None if k % 11 == 0 else "hot" if k % 2 else f"i{k % 301}" for k in range(n)]
    rows = spark.createDataFrame(
        [(f"{k:05d}", day, "2026-01-09", f"u{k % 7}", item) for k, item in enumerate(items)],
        "impression_id string, ts timestamp, ds string, user_id string, item_id string",
    )
    events = rows.select(
        (F.unix_micros("ts") - 86_400_000_000).alias("t"), "user_id", "item_id", F.lit(SCALE).alias("_n_shown")
    )
    conf = configure(
        Statistic(name="item", kind="statistic", by=["item_id"], counts=["shown"], since=["shown"]),
        Statistic(name="pair", kind="statistic", by=["user_id", "item_id"], counts=["shown"]),
        shown=History(impressions=True),
    )
    usual = count(conf, rows, events)
    assert [row["item__shown"] for row in usual] == [None if i is None else items.count(i) for i in items]
    monkeypatch.setattr(daily_statistics, "_MAX_BROADCAST", 0)
    assert count(conf, rows, events) == usual
