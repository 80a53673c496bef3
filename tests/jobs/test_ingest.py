"""Ingest and features on corrupt logs: checks that stop a night, and results that must not depend on the night."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs import features, ingest
from star_ctr.jobs.ingest import check_day_has_files
from star_ctr.jobs.io import table_hashes
from star_ctr.jobs.io.day_records import DayRecords
from star_ctr.jobs.io.newest_day import find_newest_complete, find_newest_day
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.quality.day_checks import QuarantineCount, count_quarantined_days, describe_quarantine
from star_ctr.jobs.quality.profile import describe_matches
from tests.jobs.messy_logs import DAYS, DS, settings, views, write_days


def table(conf: Settings, spark: SparkSession, name: str) -> pd.DataFrame:
    return WarehouseTables(conf, spark).read(name).toPandas()


# --- the newest day


def test_a_day_with_few_rows_is_not_the_newest_day() -> None:
    rows = {"2026-03-01": 60, "2026-03-02": 70, "2026-03-03": 55, "2026-03-09": 1, "2036-01-01": 900}
    assert find_newest_complete(rows, "2026-03-20") == "2026-03-03"
    assert find_newest_complete(rows, "2026-03-03") == "2026-03-02"  # today is not complete
    assert find_newest_complete({"2026-03-01": 3}, "2026-03-20") == "2026-03-01"
    assert find_newest_complete({"unknown": 3}, "2026-03-20") is None


def test_a_day_without_files_is_rejected(tmp_path: Path) -> None:
    write_days(tmp_path, views())
    conf = settings(tmp_path)
    assert check_day_has_files(conf, DS) == DS
    with pytest.raises(DataError, match=rf"--ds 2027-03-03: .* no file of this day; .* {DAYS[0]} to {DS}"):
        check_day_has_files(conf, "2027-03-03")
    assert check_day_has_files(settings(tmp_path, {"path": "views/*.csv"}), "2027-03-03") == "2027-03-03"


@pytest.mark.spark
def test_implausible_times_are_quarantined(tmp_path: Path, spark: SparkSession) -> None:
    rows = views()
    implausible = rows.iloc[:3].assign(
        view=["x1", "x2", "x3"], at=["2036-01-01T00:00:00Z", "1969-07-20T20:17:40Z", "1970-01-01T00:00:10Z"]
    )
    folder = tmp_path / "logs" / "views"
    folder.mkdir(parents=True)
    pd.concat([rows, implausible]).drop(columns="day").to_csv(folder / "all.csv", index=False)
    conf = settings(tmp_path, {"path": "views/all.csv"})
    assert find_newest_day(conf, spark) == DS
    assert ingest.run(conf, spark)["impressions"] == len(rows)
    quarantined = table(conf, spark, "quarantine")
    assert list(quarantined["reason"]) == ["at: not between `earliest` and `latest`"] * 3
    assert {json.loads(r)["view"] for r in quarantined["row"]} == {"x1", "x2", "x3"}


# --- too many quarantined rows


def test_quarantined_rows_exclude_duplicates_and_dropped_domains() -> None:
    def entry(step: str, ds: str, reason: str, n: int) -> dict[str, Any]:
        return {"step": step, "ds": ds, "reason": reason, "rows_in": n, "rows_out": 0 if reason else n}

    found = count_quarantined_days(
        [
            entry("ingest", "d1", "", 60), entry("ingest", "d1", "duplicate", 30), entry("ingest", "d1", "x: bad", 10),
            entry("ingest", "d2", "", 50), entry("ingest", "d2", "domain: unknown domain a", 50),
            entry("ingest", "unknown", "at: no usable time", 20), entry("ingest.items", "all", "key: missing", 2),
        ],
        {"impressions": 2_000},
    )  # fmt: skip
    assert found == [
        QuarantineCount("impressions", "d1", 100, {"x: bad": 10}),
        QuarantineCount("impressions", "unknown", 2_000, {"at: no usable time": 20}),
        QuarantineCount("items", "all", 2, {"key: missing": 2}),
    ]
    assert [q.share for q in found] == [0.1, 0.01, 1.0]


@pytest.mark.spark
def test_undeclared_labels_stop_the_night(tmp_path: Path, spark: SparkSession) -> None:
    """Otherwise, with labels 1 and -1, only clicked rows would be left, and a model would be trained on them."""
    rows = views()
    write_days(tmp_path, rows.assign(clk=rows["clk"].replace({0: -1})))
    with pytest.raises(DataError, match=r"% of the 60 rows of .*`-1`.*declare the values in label\.positive"):
        ingest.run(settings(tmp_path), spark, DS)
    unclicked = int((rows[rows["day"] == DS]["clk"] == 0).sum())
    [line] = describe_quarantine(settings(tmp_path), DS)
    assert line.startswith(f"{unclicked} rows of logs.impressions are quarantined: clk: ")
    declared = settings(tmp_path, label={"column": "clk", "negative": [-1]})
    ingest.run(declared, spark, DS)
    assert table(declared, spark, "impressions")["label"].sum() == rows["clk"].sum()


# --- nights that write the same day


@pytest.mark.spark
def test_two_nights_write_the_same_rows_for_a_day(tmp_path: Path, spark: SparkSession) -> None:
    """With a window of one day, the next night must still find that rows repeat those of the previous day."""
    rows = views()
    again = rows[rows["day"] == DAYS[0]].head(30).assign(day=DAYS[1])
    write_days(tmp_path, pd.concat([rows, again]))
    conf = settings(tmp_path, window={"days": 1})
    store = WarehouseTables(conf, spark)
    ingest.run(conf, spark, DAYS[1])
    first = table_hashes.hash_days(store, "impressions", DAYS)
    DayRecords(conf).remove("ingest.impressions", DAYS)  # the second night writes the day again
    ingest.run(conf, spark, DS)
    second = table_hashes.hash_days(store, "impressions", DAYS)
    assert table_hashes.read_hashes(conf, DS)["impressions"] == {day: second[day] for day in DAYS[1:]}
    assert second[DAYS[1]] == first[DAYS[1]]
    assert second[DAYS[1]].startswith("60:")


@pytest.mark.spark
def test_only_days_with_changed_files_are_written(tmp_path: Path, spark: SparkSession) -> None:
    rows = views()
    write_days(tmp_path, rows)
    log = {"duplicate_days": 0}
    conf = settings(tmp_path, log)
    store = WarehouseTables(conf, spark)

    def list_partitions() -> dict[str, set[str]]:
        uris = DeltaTable(store.warehouse.table("impressions")).file_uris()
        return {day: {uri for uri in uris if f"ds={day}" in uri} for day in DAYS}

    assert ingest.run(conf, spark, DS) == {"impressions": len(rows)}
    first, version = list_partitions(), store.get_version("impressions")
    assert ingest.run(conf, spark, DS) == {"impressions": len(rows)}
    assert (list_partitions(), store.get_version("impressions")) == (first, version)
    # Another night, a changed file, a missing file, and a column that is missing on one day.
    (rows[rows["day"] == DAYS[1]].head(7).drop(columns=["day", "slot"])).to_csv(
        tmp_path / f"logs/views/{DAYS[1]}.csv", index=False
    )
    assert ingest.run(conf, spark, DS) == {"impressions": 2 * 60 + 7}
    second = list_partitions()
    assert (second[DAYS[0]], second[DS]) == (first[DAYS[0]], first[DS])
    assert table(conf, spark, "impressions").query(f"ds == '{DAYS[1]}'")["slot"].isna().all()
    (tmp_path / f"logs/views/{DAYS[0]}.csv").unlink()
    assert ingest.run(conf, spark, DS) == {"impressions": 60 + 7}
    assert sorted(set(table(conf, spark, "impressions")["ds"])) == list(DAYS[1:])
    with_zone = settings(tmp_path, log, zone="Asia/Tokyo")
    assert ingest.run(with_zone, spark, DS) == {"impressions": 60 + 7}
    assert not list_partitions()[DS] & second[DS]


@pytest.mark.spark
def test_a_killed_ingest_writes_its_days_again(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are written, but not the records: the days do not count as written, even if the files change back."""
    write_days(tmp_path, views())
    conf = settings(tmp_path)
    ingest.run(conf, spark, DS)
    folder = tmp_path / "logs" / "views"
    original = folder / f"{DS}.csv"
    backup = shutil.copy2(original, tmp_path / "backup.csv")
    original.write_text("".join(original.read_text().splitlines(keepends=True)[:30]))
    with monkeypatch.context() as patch:
        patch.setattr(DayRecords, "write", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            ingest.run(conf, spark, DS)
    assert len(table(conf, spark, "impressions")) == 2 * 60 + 29
    shutil.copy2(backup, original)
    assert ingest.run(conf, spark, DS) == {"impressions": 3 * 60}


@pytest.mark.spark
def test_the_rows_of_a_deleted_file_are_removed(tmp_path: Path, spark: SparkSession) -> None:
    write_days(tmp_path, views())
    items = tmp_path / "logs" / "items"
    items.mkdir()
    for day in DAYS[:2]:
        pd.DataFrame({"sku": [f"s{k}" for k in range(12)], "price": 1.5}).to_csv(items / f"{day}.csv", index=False)
    conf = settings(tmp_path, logs={"items": {"path": "items/{ds}.csv", "key": "sku"}})
    ingest.run(conf, spark, DS)
    assert sorted(set(table(conf, spark, "items")["ds"])) == list(DAYS[:2])
    (items / f"{DAYS[0]}.csv").unlink()
    ingest.run(conf, spark, DS)
    assert sorted(set(table(conf, spark, "items")["ds"])) == [DAYS[1]]


# --- features


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
def test_features_of_missing_columns_stop_ingest(tmp_path: Path, spark: SparkSession) -> None:
    write_days(tmp_path, views())
    feature = {"name": "place", "kind": "categorical", "column": "impressions.slott"}
    with pytest.raises(DataError, match=r"features.place: logs.impressions has no column `slott`.*did you mean `slot`"):
        ingest.run(settings(tmp_path, features=[feature]), spark, DS)


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
    assert line == "0.0% of 60 rows matched `items`; check that logs.items.key has the same ids as the impressions"
