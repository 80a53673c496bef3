"""Features of messy logs: what they read, checks that stop a night, and nights that run again."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from pyspark.sql import SparkSession

from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs import features, ingest
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.quality.match_rates import describe_matches
from tests.jobs.messy_logs import DAYS, DS, settings, views, write_days


def table(conf: Settings, spark: SparkSession, name: str) -> pd.DataFrame:
    return WarehouseTables(conf, spark).read(name).toPandas()


@pytest.mark.slow
@pytest.mark.spark
def test_a_repeated_night_ignores_later_clicks_and_drops_a_withdrawn_day(tmp_path: Path, spark: SparkSession) -> None:
    rows = views()
    write_days(tmp_path, rows.drop(columns="clk"))
    folder = tmp_path / "logs" / "clicks"
    folder.mkdir()
    clicked = rows[rows["clk"] == 1].assign(at=lambda f: pd.to_datetime(f["at"]) + pd.Timedelta(seconds=5))
    late = rows[(rows["clk"] == 0) & (rows["day"] == DAYS[1])].head(9).assign(day=DS, at=f"{DS}T00:00:01Z")
    for day, part in pd.concat([clicked.astype({"at": str}), late]).groupby("day"):
        part[["view", "at"]].to_json(folder / f"{day}.json", orient="records", lines=True)
    conf = settings(
        tmp_path,
        logs={"clicks": {"path": "clicks/{ds}.json", "format": "json", "impression": "view", "time": {"column": "at", "unit": "timestamp"}}},
        label={"window_hours": 48},
        window={"days": 1},
    )  # fmt: skip
    clicks = rows.groupby("day")["clk"].sum()

    def count_clicks() -> dict[str, float]:
        return dict(table(conf, spark, "labels").groupby("ds")["label"].sum())

    ingest.run(conf, spark, DAYS[1])
    features.run(conf, spark, DAYS[1])
    first = count_clicks()
    assert first == {day: clicks[day] for day in DAYS[:2]}
    ingest.run(conf, spark, DS)
    features.run(conf, spark, DAYS[1])
    assert count_clicks() == first
    features.run(conf, spark, DS)
    assert count_clicks() == first | {DAYS[1]: clicks[DAYS[1]] + 9, DS: clicks[DS]}
    (tmp_path / "logs" / "views" / f"{DAYS[1]}.csv").unlink()
    ingest.run(conf, spark, DS)
    features.run(conf, spark, DS)
    conditions = {
        "features": "ds > ''",
        "labels": "ds > ''",
        "profile": "name == 'impressions.slot'",
        "ledger": "step == 'features'",
    }
    for name, condition in conditions.items():
        assert sorted(set(table(conf, spark, name).query(condition)["ds"])) == [DAYS[0], DS], name


@pytest.mark.spark
def test_features_read_log_columns_and_never_the_label(tmp_path: Path, spark: SparkSession) -> None:
    """With a click log, `impressions.label` is not the label. `impressions.domain` is not the domain."""
    rows = views()
    shown = rows.drop(columns="clk").assign(label="blue", domain="shop.example", hour="server", user_id="seller")
    shown["tags"] = [["a", "b"] if k % 2 else ["c"] for k in range(len(rows))]
    write_days(tmp_path, shown, lambda f, p: f.to_parquet(p, index=False), "parquet")
    clicked = rows[rows["clk"] == 1].assign(at=lambda f: pd.to_datetime(f["at"]) + pd.Timedelta(seconds=5))
    folder = tmp_path / "logs" / "clicks"
    folder.mkdir()
    clicked[["view", "at"]].to_json(folder / "all.json", orient="records", lines=True, date_format="iso")
    names = ["label", "domain", "hour", "user_id"]
    conf = settings(
        tmp_path,
        {"path": "views/{ds}.parquet", "format": "parquet"},
        logs={"clicks": {"path": "clicks/all.json", "format": "json", "impression": "view", "time": {"column": "at", "unit": "timestamp"}}},
        label={"window_hours": 1},
        features=[
            *({"name": f"own_{n}", "kind": "categorical", "column": f"impressions.{n}"} for n in names),
            {"name": "hour", "kind": "categorical", "column": "hour"},
            {"name": "tags", "kind": "categorical", "column": "impressions.tags", "multiple": True},
            {"name": "by_domain", "kind": "statistic", "by": ["domain"], "rates": {"click": "shown"}},
        ],
    )  # fmt: skip
    ingest.run(conf, spark, DS)
    features.run(conf, spark, DS)
    found = table(conf, spark, "features").set_index("impression_id").sort_index()
    want = rows.set_index("view")
    labels = table(conf, spark, "labels").set_index("impression_id").sort_index()
    assert (labels["label"] == want["clk"]).all()
    assert (found["domain"] == want["surface"]).all()
    assert {n: set(found[f"impressions_{n}"]) for n in names} == {
        "label": {"blue"}, "domain": {"shop.example"}, "hour": {"server"}, "user_id": {"seller"},
    }  # fmt: skip
    assert (found["hour"] == pd.to_datetime(want["at"]).dt.strftime("%H")).all()
    assert set(found["impressions_tags"]) == {"a\x1fb", "c"}
    lines = describe_matches(conf, DS)
    n = int(clicked["day"].eq(DS).sum())
    assert lines == [f"100.0% of {n} clicks matched an impression"]


@pytest.mark.spark
@pytest.mark.spark
@pytest.mark.slow
def test_implausible_clicks_stop_the_night(tmp_path: Path, spark: SparkSession) -> None:
    rows = views()
    write_days(tmp_path, rows)
    folder = tmp_path / "logs" / "clicks"
    folder.mkdir()
    log = {"path": "clicks/*.csv", "impression": "view", "time": {"column": "at", "unit": "timestamp", "zone": "UTC"}}

    def run(clicks: pd.DataFrame) -> None:
        clicks[["view", "at"]].to_csv(folder / "all.csv", index=False)
        conf = settings(tmp_path, logs={"clicks": log}, label={"window_hours": 24})
        ingest.run(conf, spark, DS)
        features.run(conf, spark, DS)

    clicked = rows[rows["clk"] == 1]
    with pytest.raises(
        DataError, match=r"none of the \d+ clicks of 2026-03-03 matched an impression.*contain the same ids"
    ):
        run(clicked.assign(view=clicked["view"].str.upper()))
    early = (pd.to_datetime(clicked["at"]) - pd.Timedelta(hours=1)).dt.strftime("%Y-%m-%d %H:%M:%S")
    with pytest.raises(DataError, match=r"clicks of 2026-03-03 come before their impression.*set `zone`"):
        run(clicked.assign(at=early))
    with pytest.raises(DataError, match=r"all 60 rows of 2026-03-03 have the label 0"):
        run(clicked[clicked["day"] < DS])


@pytest.mark.spark
@pytest.mark.slow
def test_unparsable_numbers_are_counted_and_stop_the_night(tmp_path: Path, spark: SparkSession) -> None:
    rows = views()
    rows["slot"] = [f"{k % 7},5" for k in range(len(rows))]
    write_days(tmp_path, rows, lambda f, p: f.to_csv(p, index=False, sep=";"))
    conf = settings(tmp_path, {"separator": ";"})
    ingest.run(conf, spark, DS)
    with pytest.raises(
        DataError, match=r"features\.slot: 100% of the 60 values.*such as `\d,5`.*logs\.impressions\.decimal"
    ):
        features.run(conf, spark, DS)
    german = settings(tmp_path, {"separator": ";", "decimal": ","})
    ingest.run(german, spark, DS)
    features.run(german, spark, DS)
    assert set(table(german, spark, "features")["impressions_slot"]) == {k + 0.5 for k in range(7)}

    rows.loc[rows.index[-2:], "slot"] = "n/a"
    write_days(tmp_path, rows, lambda f, p: f.to_csv(p, index=False, sep=";"))
    ingest.run(german, spark, DS)
    features.run(german, spark, DS)
    profile = table(german, spark, "profile").query("measure == 'unparsable'").set_index("ds")
    assert dict(profile["hits"]) == {DAYS[0]: 0, DAYS[1]: 0, DS: 2}
    assert profile["example"][DS] == "n/a"


@pytest.mark.spark
@pytest.mark.slow
def test_behaviours_without_times_do_not_see_later_snapshots(tmp_path: Path, spark: SparkSession) -> None:
    """The day `before` sorts after every date, but such behaviours must not read the newest snapshot of an item."""
    write_days(tmp_path, views())
    logs = tmp_path / "logs"
    skus = [f"s{k}" for k in range(12)]
    for day, category in {"2026-02-27": "old", DAYS[0]: "first", DS: "new"}.items():
        pd.DataFrame({"sku": skus, "category": category}).to_csv(logs / f"items-{day}.csv", index=False)
    pd.DataFrame(
        [(f"p{u}", f"s{u}", "watch", k) for u in range(12) for k in range(2)], columns=["visitor", "sku", "what", "pos"]
    ).to_csv(logs / "behaviours.csv", index=False)
    behaviours = {"path": "behaviours.csv", "user": "visitor", "item": "sku", "behaviour": "what", "order": "pos"}
    for as_of in ("day_before", "same_day"):
        conf = settings(
            tmp_path,
            logs={"behaviours": behaviours, "items": {"path": "items-{ds}.csv", "key": "sku", "as_of": as_of}},
            history={"watch": {"behaviours": "watch"}},
            features=[
                {"name": "watched", "kind": "sequence", "of": ["watch"], "columns": {"items.category": "category"}},
                {"name": "slot", "kind": "numeric", "column": "impressions.slot"},
            ],
        )
        ingest.run(conf, spark, DS)
        features.run(conf, spark, DS)
        found = table(conf, spark, "features")
        assert {c for values in found["watched__items_category"] for c in values} == {"old"}, as_of


@pytest.mark.spark
def test_joins_without_matches_are_reported(tmp_path: Path, spark: SparkSession) -> None:
    write_days(tmp_path, views())
    pd.DataFrame({"sku": [f"S{k:02d}" for k in range(12)], "category": "c"}).to_csv(
        tmp_path / "logs/items.csv", index=False
    )
    conf = settings(
        tmp_path,
        logs={"items": {"path": "items.csv", "key": "sku"}},
        features=[{"name": "category", "kind": "categorical", "column": "items.category"}],
        history={},
    )
    ingest.run(conf, spark, DS)
    features.run(conf, spark, DS)
    (line,) = describe_matches(conf, DS)
    assert (
        line == "0.0% of 60 impressions matched `items`; check that logs.items.key has the same ids as the impressions"
    )
