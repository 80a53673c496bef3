"""Keys with many rows: scans that divide them into pieces give the same features to the bit."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.load import load
from star_ctr.conf.settings.features import History as Kind
from star_ctr.conf.settings.features import Sequence, Statistic
from star_ctr.conf.settings.root import Settings
from star_ctr.features.point_in_time import hot_keys, scan_planner
from star_ctr.features.point_in_time.daily_counts import CUT_DAY
from star_ctr.features.point_in_time.events import LARGEST_OUTCOME, LOG_DAY, SCALE, name_weight_column
from star_ctr.features.point_in_time.scan_planner import add_history, compute_history
from star_ctr.features.point_in_time.scan_plans import plan_scans

DAY = 86_400_000_000
SHOWN, SPENT, BOUGHT = map(name_weight_column, ("shown", "spent", "bought"))


def configure() -> Settings:
    """Return settings with features of three scans, wide sums, and sequences of several kinds."""
    kinds = {"shown": Kind(impressions=True), "spent": Kind(outcome="spend"), "bought": Kind(outcome="buys")}
    return load("demo").model_copy(
        update={
            "zone": "UTC",
            "history": kinds,
            "features": [
                Statistic(
                    name="item", kind="statistic", by=["item_id"], counts=["shown", "spent"], since=["bought"], cut="time"
                ),
                Statistic(
                    name="pair", kind="statistic", by=["item_id", "domain"], counts=["spent"], since=["spent"], cut="time"
                ),
                Statistic(name="user", kind="statistic", by=["user_id"], counts=["bought"], cut="time"),
                Sequence(name="seen", kind="sequence", of=["shown", "bought"], columns={"item_id": "v"}, length=7, behaviour=True, cut="time"),
                Sequence(name="rare", kind="sequence", of=["bought"], columns={"item_id": "v"}, length=3, cut="time"),
            ],
        }
    )  # fmt: skip


def generate(n: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return events and rows of two days, of which one item and one user have a third."""
    rng = np.random.default_rng(seed)

    def draw(size: int) -> dict[str, object]:
        return {
            "user_id": np.where(rng.random(size) < 0.3, "u0", rng.choice(["u1", "u2", "u3", None], size)),
            "item_id": np.where(rng.random(size) < 0.4, "i0", rng.choice(["i1", "i2", "i3", None], size)),
            "domain": rng.choice(["a", "b", "c"], size),
            # Few times, so that many rows have the same time and some pieces are empty.
            "t": DAY * rng.integers(100, 102, size) + rng.integers(1, 300, size) * 1_000_000,
        }

    spend = rng.choice([0, SCALE, -SCALE, int(LARGEST_OUTCOME) * SCALE, 7 - int(LARGEST_OUTCOME) * SCALE], n)
    bought = np.where(rng.random(n) < 0.05, SCALE, 0)
    events = pd.DataFrame(draw(n) | {"order": rng.integers(0, 3, n), "tie": [f"{k:05d}" for k in range(n)]})
    events = events.assign(**{SHOWN: SCALE, SPENT: spend, BOUGHT: bought})
    return events, pd.DataFrame(draw(n) | {"impression_id": [f"q{k:05d}" for k in range(n)]})


def compute(spark: SparkSession, events: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the features of the rows, sorted by impression."""
    log = spark.createDataFrame(
        events,
        "user_id string, item_id string, domain string, t long, order long, tie string, "
        f"{SHOWN} long, {SPENT} long, {BOUGHT} long",
    )
    day = F.date_format(F.timestamp_micros("t"), "yyyy-MM-dd")
    asked = spark.createDataFrame(rows, "user_id string, item_id string, domain string, t long, impression_id string")
    asked = asked.withColumn("ds", day).withColumn("ts", F.timestamp_micros("t")).drop("t")
    conf = configure()
    with ExitStack() as stack:
        found = add_history(conf, asked, compute_history(conf, log.withColumn(LOG_DAY, day)), stack)
        return found.toPandas().sort_values("impression_id").reset_index(drop=True)


def test_pieces_of_hot_keys_give_the_same_features(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference is a loop over the rows. Sums of outcomes exceed 64 bits, and times have ties."""
    events, rows = generate(2000, 5)
    whole = compute(spark, events, rows)
    monkeypatch.setattr(hot_keys, "LEAST_ROWS", 20)
    monkeypatch.setattr(hot_keys, "SAMPLE", 1.0)
    divided: list[int] = []
    find = hot_keys.find_hot_keys

    def find_and_count(frames: list[DataFrame], tasks: int) -> list[hot_keys.HotKey]:
        found = find(frames, tasks)
        divided.extend(len(key.bounds) for key in found)
        return found

    monkeypatch.setattr(scan_planner, "find_hot_keys", find_and_count)
    pieces = compute(spark, events, rows)
    assert len(divided) > 6
    assert max(divided) > 4
    pd.testing.assert_frame_equal(pieces, whole, check_exact=True)
    for row in pieces.merge(rows[["impression_id", "t"]], on="impression_id").sample(60, random_state=0).itertuples():
        earlier = events[events["t"] < row.t]
        mine = earlier[earlier["user_id"] == row.user_id].sort_values(["t", "order", "tie"])
        assert list(row.seen__item_id) == list(mine["item_id"])[-7:]
        assert list(row.rare__item_id) == list(mine[mine[BOUGHT] > 0]["item_id"])[-3:]
        same = earlier[earlier["item_id"] == row.item_id]
        pair = same[same["domain"] == row.domain]
        if row.item_id is None:
            assert np.isnan(row.item__shown)
            continue
        assert row.item__shown == len(same)
        for found, of in ((row.item__spent, same), (row.pair__spent, pair)):
            total = sum(int(x) for x in of[SPENT])
            assert found == pytest.approx(total / SCALE, rel=1e-15)
        last = same[same[BOUGHT] > 0]["t"].max()
        assert row.item__since_bought == (row.t - last) / 1e6 or np.isnan([row.item__since_bought, last]).all()


def test_rare_keys_are_not_divided(spark: SparkSession) -> None:
    rows = spark.range(1000).select(
        F.concat(F.lit("k"), F.col("id") % 500).alias("key"), F.col("id").alias(scan_planner.TIME)
    )
    assert hot_keys.find_hot_keys([rows], 8) == []


def test_a_scan_by_domain_is_not_shared() -> None:
    """Otherwise all users of a domain would go to one task."""
    by_domain = Statistic(name="d", kind="statistic", by=["domain"], counts=["shown"], cut="time")
    by_pair = Statistic(name="p", kind="statistic", by=["domain", "user_id"], counts=["shown"], cut="time")
    assert {plan.key for plan in plan_scans([by_domain, by_pair], [])} == {("domain",), ("domain", "user_id")}
    assert CUT_DAY not in {column for plan in plan_scans([by_domain, by_pair], []) for column in plan.key}
