"""Simulated logs: they do not depend on partitions, and have the properties that docs/simulator.md describes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from pyspark.sql import DataFrame, SparkSession

from star_ctr.conf.load import load
from star_ctr.conf.settings.simulate import SimulateSettings
from star_ctr.features.simulation import clicks as clicking
from star_ctr.features.simulation import impressions as sim
from star_ctr.features.simulation import logs as out
from star_ctr.jobs.tools import simulate

pytestmark = pytest.mark.spark
SMALL = SimulateSettings(impressions=40_000, days=4, users=3_000, items=2_000, seed=3)


def world(spark: SparkSession, settings: SimulateSettings = SMALL, partitions: int = 2) -> DataFrame:
    shown = sim.make_impressions(settings, spark.range(settings.impressions).repartition(partitions))
    shown = shown.withColumn("preference", clicking.compute_preference(settings))
    counts = [(r.domain, r.level, r.n) for r in clicking.count_thresholds(settings, shown).collect()]
    return clicking.add_clicks(settings, shown, clicking.fit_biases(counts))


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> pd.DataFrame:
    return world(spark).toPandas().sort_values("id", ignore_index=True)


def test_logs_depend_only_on_the_seed(spark: SparkSession, rows: pd.DataFrame) -> None:
    again = world(spark, partitions=7).toPandas().sort_values("id", ignore_index=True)
    pd.testing.assert_frame_equal(rows, again)
    other = world(spark, SMALL.model_copy(update={"seed": 4})).toPandas().sort_values("id", ignore_index=True)
    assert (other["user"] != rows["user"]).mean() > 0.9


def test_shares_and_click_rates_match_table_1(rows: pd.DataFrame) -> None:
    share = rows["domain"].value_counts(normalize=True).sort_index().to_numpy() * 100
    expected_share = np.array(sim.SHARES) / sum(sim.SHARES) * 100
    error = np.sqrt(expected_share / 100 * (1 - expected_share / 100) / len(rows)) * 100
    assert (np.abs(share - expected_share) < 4 * error + 1e-9).all()
    by_domain = rows.groupby("domain")["clicked"].agg(["mean", "size"])
    # The bias is fitted to the click rate of the paper. It is exact up to one row and the histogram's width of 0.01.
    assert (np.abs(by_domain["mean"] * 100 - sim.CLICK_RATES) < 1.5 * 100 / by_domain["size"] + 0.1).all()
    expected, clicks = rows.groupby("domain")["true_rate"].sum(), rows.groupby("domain")["clicked"].sum()
    assert (np.abs(expected - clicks) < 4 * np.sqrt(expected)).all()
    # Also among rows of equally strong preference.
    by_preference = rows.groupby(pd.qcut(rows["preference"], 10, labels=False))[["true_rate", "clicked"]].sum()
    error = 4 * np.sqrt(by_preference["true_rate"])
    assert (np.abs(by_preference["true_rate"] - by_preference["clicked"]) < error).all()


def test_domains_share_some_users_and_most_items(rows: pd.DataFrame) -> None:
    by_domain = {d: (set(g["user"]), set(g["item"])) for d, g in rows.groupby("domain")}
    (users_8, items_8), (users_14, items_14) = by_domain[8], by_domain[14]
    assert 0.05 < len(users_8 & users_14) / len(users_8 | users_14) < 0.6
    assert len(items_8 & items_14) / len(items_8) > 0.6


def test_tastes_of_a_domain_change_slowly_over_days(spark: SparkSession) -> None:
    # Compare the same user and items in two domains of a group: everything except the tastes of domains cancels out.
    grid = spark.createDataFrame(
        [(d, day, 5, c, 1, sim.get_first_day_ms(SMALL)) for d in range(1, 20) for day in range(4) for c in range(40)],
        "domain int, day long, user long, item long, position long, shown_at long",
    )
    preference = grid.withColumn("preference", clicking.compute_preference(SMALL)).toPandas()
    wide = preference.pivot_table(index=["domain", "item"], columns="day", values="preference").unstack("item")
    taste = (wide.loc[5:].to_numpy() - wide.loc[:15].to_numpy()).reshape(15, 4, 40)
    taste = taste - taste.mean(axis=2, keepdims=True)
    corr = np.corrcoef(taste.transpose(1, 0, 2).reshape(4, -1))
    assert (np.diag(corr, 1) > 0.9).all(), corr
    assert 0.6 < corr[0, 3] < 0.85, corr


def test_some_clicks_are_late_past_midnight_repeated_or_without_an_impression(
    spark: SparkSession, rows: pd.DataFrame
) -> None:
    clicks = out.make_click_log(SMALL, world(spark)).toPandas()
    shown = rows.assign(impression_id=[f"p{i:010d}" for i in rows["id"]]).set_index("impression_id")
    delay = clicks["clicked_at"] - clicks["impression_id"].map(shown["shown_at"])
    assert (delay > 24 * 3_600_000).sum() > 0
    assert clicks["impression_id"].duplicated().sum() > 0
    assert clicks["impression_id"].str.endswith("-lost").sum() > 0
    day_shown = clicks["impression_id"].map(shown["day"])
    assert (
        pd.to_datetime(clicks["ds"]) > pd.Timestamp(SMALL.first_day) + pd.to_timedelta(day_shown, unit="D")
    ).sum() > 5


def test_the_logs_pass_the_check_of_the_demo(spark: SparkSession, tmp_path: Path) -> None:
    from star_ctr.jobs.tools import check

    settings = load(
        "demo",
        [f"paths.logs={tmp_path}/logs", "simulate={impressions: 5000, days: 2, users: 500, items: 200}"],
    )
    written = simulate.run(settings, spark)
    assert written["truth"] == 5000
    assert written["users"] == 3 * 500
    problems = [p for f in check.run(settings, spark) for p in f["problems"]]
    assert all("user_id: missing" in p or "shown_at: no usable time" in p for p in problems), problems


def test_planted_domains_click_as_in_another_domain_or_the_opposite_way(spark: SparkSession) -> None:
    planted = SMALL.model_copy(update={"same_clicks": {"d08": "d07", "d10": "d07"}, "opposite_clicks": ["d14", "d08"]})
    grid = spark.createDataFrame(
        [(d, day, user, 40 * user + c, 3, sim.get_first_day_ms(SMALL)) for d in range(1, 20) for day in (0, 3) for user in (5, 6) for c in range(40)],
        "domain int, day long, user long, item long, position long, shown_at long",
    )  # fmt: skip
    before, after = (
        grid.withColumn("preference", clicking.compute_preference(s)).toPandas().groupby("domain")["preference"]
        for s in (SMALL, planted)
    )
    values = {d: after.get_group(d).to_numpy() for d in range(1, 20)}
    for d in set(range(1, 20)) - {8, 10, 14}:
        assert (values[d] == before.get_group(d).to_numpy()).all()
    assert (values[10] == values[7]).all()
    assert (values[8] == -values[7]).all()
    assert (values[14] == -before.get_group(14).to_numpy()).all()
    rows = world(spark, planted).toPandas().sort_values("id", ignore_index=True)
    share = rows.groupby("domain")["clicked"].mean()
    assert share[14] * 100 == pytest.approx(sim.CLICK_RATES[13], abs=0.2), "the click rate stays that of Table 1"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"opposite_clicks": ["d1"]}, "opposite_clicks: `d1` is not a simulated domain; did you mean `d1"),
        ({"same_clicks": {"d20": "d01"}}, "same_clicks: `d20` is not a simulated domain"),
        ({"same_clicks": {"d02": "d01", "d03": "d02"}}, "`d02` is both a key and a value"),
    ],
)
def test_wrong_planted_domains_are_errors(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        SimulateSettings.model_validate(wrong)
