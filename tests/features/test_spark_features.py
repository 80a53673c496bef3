"""Compares attribution, attributes, statistics and metrics on Spark with slow row-by-row versions."""

from __future__ import annotations

import datetime as dt
from contextlib import ExitStack

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from sklearn.metrics import roc_auc_score

from star_ctr.conf.load import load
from star_ctr.conf.settings.evaluate import EvaluateSettings
from star_ctr.conf.settings.features import History, Sequence, Statistic
from star_ctr.features.evaluation import metrics
from star_ctr.features.point_in_time import attribution
from star_ctr.features.point_in_time.attributes import join_attributes
from star_ctr.features.point_in_time.events import add_time_columns, build_events
from star_ctr.features.point_in_time.scan_planner import add_history, compute_history

pytestmark = pytest.mark.spark


def stamp(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


def test_clicks_are_matched_within_the_attribution_window(spark: SparkSession) -> None:
    shown = spark.createDataFrame(
        [
            ("in time", stamp("2026-01-01 10:00:00"), "a"),
            ("past midnight", stamp("2026-01-01 23:59:00"), "a"),
            ("late", stamp("2026-01-01 10:00:00"), "b"),
            ("repeated", stamp("2026-01-01 12:00:00"), "b"),
            ("never", stamp("2026-01-01 12:00:00"), "b"),
            ("before", stamp("2026-01-01 12:00:00"), "b"),
            ("on the edge", stamp("2026-01-01 12:00:00"), "b"),
        ],
        "impression_id string, ts timestamp, domain string",
    ).withColumn("ds", F.date_format("ts", "yyyy-MM-dd"))
    clicks = spark.createDataFrame(
        [
            ("in time", stamp("2026-01-01 10:00:30"), "2026-01-01"),
            ("past midnight", stamp("2026-01-02 00:01:00"), "2026-01-02"),
            ("late", stamp("2026-01-01 12:00:01"), "2026-01-01"),
            ("repeated", stamp("2026-01-01 12:00:09"), "2026-01-01"),
            ("repeated", stamp("2026-01-01 12:00:05"), "2026-01-01"),
            ("repeated", stamp("2026-01-01 15:00:00"), "2026-01-01"),
            ("orphan", stamp("2026-01-01 12:00:00"), "2026-01-01"),
            ("before", stamp("2026-01-01 11:59:59"), "2026-01-01"),
            ("on the edge", stamp("2026-01-01 14:00:00"), "2026-01-01"),
        ],
        "impression_id string, ts timestamp, ds string",
    )
    labeled = {r.impression_id: r for r in attribution.add_labels(shown, clicks, window_hours=2, zone="UTC").collect()}
    assert {k: r.label for k, r in labeled.items()} == {
        "in time": 1.0, "past midnight": 1.0, "late": 0.0, "repeated": 1.0, "never": 0.0, "before": 0.0, "on the edge": 1.0,
    }  # fmt: skip
    assert labeled["repeated"].clicked_at.astimezone(dt.UTC) == stamp("2026-01-01 12:00:05")
    matches = attribution.match_clicks(shown, clicks, window_hours=2, zone="UTC")
    counts = {(r.ds, r.domain, r.reason): (r.rows_in, r.rows_out) for r in attribution.count_clicks(matches).collect()}
    assert counts == {
        ("2026-01-01", "a", ""): (1, 1),
        ("2026-01-02", "a", ""): (1, 1),
        ("2026-01-01", "b", ""): (2, 2),
        ("2026-01-01", "b", "repeated click"): (1, 0),
        ("2026-01-01", "b", "click after the attribution window"): (2, 0),
        ("2026-01-01", "b", "click before its impression"): (1, 0),
        ("2026-01-01", "unknown", "click without impression"): (1, 0),
    }


def test_a_reused_impression_id_is_matched_with_its_latest_impression(spark: SparkSession) -> None:
    """A click must not label an earlier impression with the same id, three days before."""
    shown = spark.createDataFrame(
        [("1", stamp("2026-03-01 10:00:00"), "a"), ("1", stamp("2026-03-04 10:00:00"), "b")],
        "impression_id string, ts timestamp, domain string",
    ).withColumn("ds", F.date_format("ts", "yyyy-MM-dd"))
    clicks = spark.createDataFrame(
        [("1", stamp("2026-03-04 10:05:00"), "2026-03-04"), ("1", stamp("2026-02-28 10:00:00"), "2026-02-28")],
        "impression_id string, ts timestamp, ds string",
    )
    labeled = {r.domain: r.label for r in attribution.add_labels(shown, clicks, window_hours=24, zone="UTC").collect()}
    assert labeled == {"a": 0.0, "b": 1.0}
    matches = attribution.match_clicks(shown, clicks, window_hours=24, zone="UTC").collect()
    assert {(r.ds, r.domain, r.status) for r in matches} == {
        ("2026-03-04", "b", ""),
        ("2026-02-28", "a", "click before its impression"),
    }


def test_later_log_days_do_not_change_what_was_known(spark: SparkSession) -> None:
    """A click that arrives later must not replace the first one, nor an impression that arrives later the matched one."""
    first = [("1", stamp("2026-03-01 10:00:00"), "2026-03-01", "a")]
    later = [*first, ("1", stamp("2026-03-01 10:00:02"), "2026-03-02", "b")]
    clicks = [
        ("1", stamp("2026-03-01 10:05:00"), "2026-03-01"),
        ("1", stamp("2026-03-01 10:04:00"), "2026-03-02"),  # belongs to the impression of that log day
        ("1", stamp("2026-03-01 10:00:01"), "2026-03-03"),  # older than the click that is known already
    ]

    def label(shown: list, n_clicks: int) -> dict[str, tuple[float, str | None, str | None]]:
        views = spark.createDataFrame(shown, "impression_id string, ts timestamp, ds string, domain string")
        some = spark.createDataFrame(clicks[:n_clicks], "impression_id string, ts timestamp, ds string")
        rows = attribution.add_labels(views, some, window_hours=24, zone="Asia/Tokyo")
        times = F.date_format("clicked_at", "HH:mm:ss"), F.date_format("click_known", "dd HH:mm")
        return {r[0]: tuple(r[1:]) for r in rows.select("domain", "label", *times).collect()}

    assert label(first, 1) == {"a": (1.0, "10:05:00", "01 10:05")}
    assert label(later, 1)["a"] == label(first, 1)["a"]
    assert label(later, 3) == {
        "a": (1.0, "10:05:00", "01 10:05"),
        "b": (1.0, "10:04:00", "01 15:00"),  # the log day begins at 15:00 UTC
    }


@pytest.mark.parametrize(("as_of", "want"), [("day_before", [None, "old", "mid"]), ("same_day", ["old", "mid", "mid"])])
def test_attributes_come_from_the_day_that_as_of_declares(spark: SparkSession, as_of: str, want: list[str]) -> None:
    rows = spark.createDataFrame(
        [(d, "u", d) for d in ("2026-01-01", "2026-01-03", "2026-01-05")], "id string, user_id string, ds string"
    )
    snapshots = spark.createDataFrame(
        [("u", "2026-01-01", "old"), ("u", "2026-01-03", "mid"), ("u", "2026-01-07", "new")],
        "key string, ds string, tier string",
    )
    joined = join_attributes(rows, snapshots, "user_id", "users", {"users_tier": "tier"}, as_of)  # type: ignore[arg-type]
    assert [r.users_tier for r in joined.orderBy("id").collect()] == want


LOG = st.lists(
    st.tuples(st.sampled_from("xy"), st.sampled_from("ij"), st.sampled_from(["a", "b"]), st.integers(0, 47), st.booleans(), st.integers(-1, 1)),
    min_size=1,
    max_size=25,
)  # fmt: skip


@settings(max_examples=5, deadline=None)
@given(
    LOG,
    st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("ij"), st.integers(0, 3), st.booleans()), max_size=10),
)
def test_statistics_and_sequences_match_a_row_by_row_count(spark: SparkSession, log: list, older: list) -> None:
    """Include ties, days other than the date of the time, users without history, and behaviours before the first day."""
    conf = load("kuairand", ["paths.logs=/none"])
    conf = conf.model_copy(
        update={
            "zone": "UTC",
            "history": {
                "shown": History(impressions=True),
                "watch": History(impressions=True, behaviours="watch"),
                "click": History(outcome="label"),
                "ended": History(behaviours="watch", also="long_watch"),
                "beyond": History(behaviours="watch", also="long_watch", less="item_id"),
            },
            "features": [
                Statistic(name="item", kind="statistic", by=["item_id"], counts=["watch"], rates={"click": "shown"}, cut="day"),
                Statistic(name="mine", kind="statistic", by=["user_id"], counts=["ended"], rates={"beyond": "watch"}),
                Statistic(name="old", kind="statistic", by=["item_id"], counts=["watch"], since=["watch"]),
                Statistic(name="new", kind="statistic", by=["item_id"], counts=["watch"], since=["watch"], last_days=1),
                Statistic(name="faded", kind="statistic", by=["domain"], counts=["watch", "click"], half_life_days=0.7),
                Statistic(name="short", kind="statistic", by=["domain"], counts=["watch"], half_life_days=3, last_days=2),
                Statistic(name="pair", kind="statistic", by=["user_id", "domain"], counts=["shown"], since=["shown"], cut="time"),
                Sequence(name="seen", kind="sequence", of=["watch", "click"], columns={"item_id": "v"}, length=3, cut="day", behaviour=True),
                Sequence(name="now", kind="sequence", of=["click"], columns={"item_id": "v"}, length=2, cut="time"),
            ],
        }
    )  # fmt: skip
    start = pd.Timestamp("2026-01-02")
    views = pd.DataFrame(
        [
            (f"{n:03d}", u, i, d, float(c), 0.0, start + pd.Timedelta(hours=h), str((start + pd.Timedelta(days=h // 24 + shift)).date()))
            for n, (u, i, d, h, c, shift) in enumerate(log)
        ],
        columns=["impression_id", "user_id", "item_id", "domain", "label", "_outcome_long_view", "ts", "ds"],
    )  # fmt: skip
    past = [(u, i, "watch", None, int(o), "before") for u, i, o, _ in older]
    past += [(u, i, "long_watch", None, 0, "before") for u, i, _, ended in older if ended]
    shown = add_time_columns(conf, spark.createDataFrame(views))
    behaviours = spark.createDataFrame(
        past, "user_id string, item_id string, behaviour string, ts timestamp, order long, ds string"
    )
    known = build_events(conf, shown, None, behaviours)
    with ExitStack() as stack:
        found = (
            add_history(conf, shown, compute_history(conf, known), stack)
            .toPandas()
            .set_index("impression_id")
            .sort_index()
        )

    views["known"] = np.maximum(views["ts"], pd.to_datetime(views["ds"]))
    for row in views.itertuples():
        cut = min(row.ts.normalize(), pd.Timestamp(row.ds))
        now = min(row.ts, pd.Timestamp(row.ds) + pd.Timedelta(days=1))
        got = found.loc[row.impression_id]
        before, just = views[views["known"] < cut], views[views["known"] < now]
        assert set(before["ds"]) <= {str(d.date()) for d in pd.date_range("2026-01-01", row.ds)} - {row.ds}
        assert max([*just["ds"], row.ds]) == row.ds
        of_item = before[before["item_id"] == row.item_id]
        assert got["item__watch"] == len(of_item) + sum(i == row.item_id for _, i, _, _ in older)
        assert got["item__shown"] == len(of_item)
        assert got["item__click"] == of_item["label"].sum()
        last_day = of_item[of_item["known"] >= cut - pd.Timedelta(days=1)]
        assert (got["old__watch"], got["new__watch"]) == (got["item__watch"], len(last_day))
        for name, seen in (("old", of_item), ("new", last_day)):
            since = (cut - seen["known"].max()).total_seconds() if len(seen) else None
            assert got[f"{name}__since_watch"] == since or (since is None and np.isnan(got[f"{name}__since_watch"]))
        of_domain = before[before["domain"] == row.domain]
        ages = (cut - of_domain["known"].dt.normalize()).dt.days.astype(int)
        by_age = of_domain.groupby(ages)["label"].agg(["size", "sum"])
        weights = np.exp2(-by_age.index / 0.7)
        assert got["faded__watch"] == pytest.approx((by_age["size"] * weights)[by_age.index <= 7].sum(), abs=1e-5)
        assert got["faded__click"] == pytest.approx((by_age["sum"] * weights)[by_age.index <= 7].sum(), abs=1e-5)
        recent = by_age[by_age.index <= 2]
        assert got["short__watch"] == pytest.approx((recent["size"] * np.exp2(-recent.index / 3)).sum(), abs=1e-5)
        ended = {(u, i) for u, i, _, whole in older if whole}
        assert got["mine__ended"] == sum(u == row.user_id and (u, i) in ended for u, i, _, _ in older)
        share = {i: np.mean([(u, i) in ended for u, j, _, _ in older if j == i]) for _, i, _, _ in older}
        beyond = sum(((u, i) in ended) - share[i] for u, i, _, _ in older if u == row.user_id)
        assert got["mine__beyond"] == pytest.approx(beyond, abs=1e-5)
        pair = just[(just["user_id"] == row.user_id) & (just["domain"] == row.domain)]
        assert got["pair__shown"] == len(pair)
        if len(pair):
            assert got["pair__since_shown"] == (now - pair["known"].max()).total_seconds()
        else:
            assert np.isnan(got["pair__since_shown"])
        mine = before[before["user_id"] == row.user_id].sort_values(["known", "ts", "impression_id"])
        old = sorted((o, f"{i}/watch", i) for u, i, o, _ in older if u == row.user_id)
        every = [(i, "watch") for _, _, i in old] + [
            (r.item_id, "click" if r.label else "watch") for r in mine.itertuples()
        ]
        assert list(zip(got["seen__item_id"], got["seen__behaviour"], strict=True)) == every[-3:]
        clicks = just[(just["user_id"] == row.user_id) & (just["label"] > 0)].sort_values(
            ["known", "ts", "impression_id"]
        )
        assert list(got["now__item_id"]) == list(clicks["item_id"])[-2:]


def test_gauc_matches_a_loop_over_users(spark: SparkSession) -> None:
    rng = np.random.default_rng(0)
    n = 4000
    rows = pd.DataFrame(
        {
            "run_id": "r",
            "user_id": [f"u{int(u)}" for u in rng.zipf(1.4, n) % 700],  # many users have one row
            "domain": rng.choice(["a", "b", "c"], n, p=[0.7, 0.29, 0.01]),
            "label": (rng.random(n) < 0.3).astype(float),
            "score": np.round(rng.random(n), 2),  # many ties
        }
    )
    rows.loc[rows["domain"] == "c", "label"] = 0.0  # only one class in this domain
    other = rows.assign(run_id="other", score=rng.random(n))  # another run must not affect the metrics
    both = metrics.compute_metrics(spark.createDataFrame(pd.concat([rows, other])), EvaluateSettings()).collect()
    assert len(both) == 8
    found = {r.domain: r for r in both if r.run_id == "r"}
    for domain in ("a", "b", "c", "overall"):
        part = rows if domain == "overall" else rows[rows["domain"] == domain]
        users = [u for _, u in part.groupby("user_id") if u["label"].nunique() == 2]
        got = found[domain]
        assert (got.rows, got.users, got.clicks) == (len(part), part["user_id"].nunique(), part["label"].sum())
        if not users:
            assert got.gauc is None
            assert got.auc is None
            assert got.pcoc is None
            continue
        want = np.average([roc_auc_score(u["label"], u["score"]) for u in users], weights=[len(u) for u in users])
        assert got.gauc == pytest.approx(want, abs=1e-9)
        assert (got.gauc_users, got.gauc_rows) == (len(users), sum(len(u) for u in users))
        assert got.auc == pytest.approx(roc_auc_score(part["label"], part["score"]), abs=1e-9)


def test_metrics_do_not_depend_on_the_order_of_rows(spark: SparkSession) -> None:
    rows = spark.range(3000).select(
        F.lit("r").alias("run_id"),
        F.concat(F.lit("u"), F.col("id") % 50).alias("user_id"),
        F.when(F.col("id") % 3 == 0, "a").otherwise("b").alias("domain"),
        (F.pmod(F.xxhash64("id"), F.lit(4)) == 0).cast("double").alias("label"),
        (F.pmod(F.xxhash64("id", F.lit(1)), F.lit(1000)) / 1000.0).alias("score"),
    )
    one = metrics.compute_metrics(rows.repartition(1), EvaluateSettings()).orderBy("domain").collect()
    many = metrics.compute_metrics(rows.repartition(7, "score"), EvaluateSettings()).orderBy("domain").collect()
    assert one == many
