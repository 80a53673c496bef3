"""Rows of logs without days belong to the night that saw them first, so that they do not change earlier days."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from star_ctr.conf.contracts.dates import BEFORE_FIRST_DAY, NO_DAY
from star_ctr.conf.settings.root import Settings
from star_ctr.features.cleaning.first_seen import KNOWN
from star_ctr.jobs import features, ingest
from star_ctr.jobs.history.inputs import add_columns, select_columns
from star_ctr.jobs.io import table_hashes
from star_ctr.jobs.io.day_records import DayRecords, forget_days
from star_ctr.jobs.io.delta_rows import read_rows
from star_ctr.jobs.io.warehouse import WarehouseTables
from tests.conftest import on_request
from tests.jobs.messy_logs import DAYS, DS, settings, views, write_days

pytestmark = pytest.mark.spark
ITEMS = {f"s{k}": f"c{k % 3}" for k in range(11)}  # s11 has no attributes at first
OLD = [("p1", "s1", "watch", 1), ("p1", "s1", "like", 2), ("p2", "s2", "watch", 1), ("p3", "s1", "watch", 1)]
FEATURES = [
    {"name": "category", "kind": "categorical", "column": "items.category"},
    {"name": "by_category", "kind": "statistic", "by": ["items.category"], "counts": ["shown"]},
    {"name": "old", "kind": "statistic", "by": ["item_id"], "counts": ["watch", "liked"]},
    {"name": "now", "kind": "statistic", "by": ["item_id"], "counts": ["watch"], "since": ["watch"], "cut": "time"},
    {"name": "watched", "kind": "sequence", "of": ["watch"], "columns": {"item_id": "sku"}, "length": 3},
    {"name": "sku", "kind": "categorical", "column": "item_id"},
    {"name": "slot", "kind": "numeric", "column": "impressions.slot"},
]


def write_items(folder: Path, items: dict[str, str]) -> None:
    """Write the attributes to two files."""
    (folder / "logs/items").mkdir(parents=True, exist_ok=True)
    rows = pd.DataFrame({"sku": list(items), "category": list(items.values())})
    for k in range(2):
        rows.iloc[k::2].to_csv(folder / f"logs/items/part-{k}.csv", index=False)


def write_old(folder: Path, rows: list[tuple[str, str, str, int]]) -> None:
    pd.DataFrame(rows, columns=["visitor", "sku", "what", "pos"]).to_csv(folder / "logs/old.csv", index=False)


def configure(folder: Path, **more: Any) -> Settings:
    folder.mkdir(exist_ok=True)
    write_days(folder, views(30))
    write_items(folder, ITEMS)
    write_old(folder, OLD)
    return load_again(folder, **more)


def load_again(folder: Path, **more: Any) -> Settings:
    return settings(
        folder,
        logs={
            "items": {"path": "items/*.csv", "key": "sku", "as_of": "same_day"},
            "behaviours": {"path": "old.csv", "user": "visitor", "item": "sku", "behaviour": "what", "order": "pos"},
        },
        history={
            "shown": {"impressions": True},
            "watch": {"behaviours": "watch"},
            "liked": {"behaviours": "watch", "also": "like", "less": "item_id"},
        },
        features=[f for f in FEATURES if f["name"] != "old"]
        + [{"name": "old", "kind": "statistic", "by": ["item_id"], "rates": {"liked": "watch"}, "counts": ["watch"]}],
        window={"days": 1},
        **more,
    )


def run_night(conf: Settings, spark: SparkSession, ds: str) -> None:
    ingest.run(conf, spark, ds)
    features.run(conf, spark, ds)


def read(conf: Settings, spark: SparkSession, table: str) -> pd.DataFrame:
    return WarehouseTables(conf, spark).read(table).toPandas()


def read_features(conf: Settings, spark: SparkSession) -> pd.DataFrame:
    rows = read(conf, spark, "features").sort_values(["ds", "ts", "impression_id"]).reset_index(drop=True)
    return rows[sorted(rows.columns)].astype(str)


def list_files(conf: Settings, table: str, days: tuple[str, ...]) -> set[str]:
    uris = DeltaTable(f"{conf.paths.warehouse}/{table}").file_uris()
    return {uri for uri in uris if any(f"ds={day}" in uri for day in days)}


def hash_tables(conf: Settings, spark: SparkSession) -> dict[str, dict[str, str]]:
    store, days = WarehouseTables(conf, spark), [NO_DAY, BEFORE_FIRST_DAY, *DAYS]
    return {name: table_hashes.hash_days(store, name, days) for name in ("items", "behaviours")}


@pytest.mark.slow
def test_new_attributes_count_from_the_night_that_saw_them(tmp_path: Path, spark: SparkSession) -> None:
    conf = configure(tmp_path)
    for day in DAYS[:2]:
        run_night(conf, spark, day)
    first = {table: list_files(conf, table, DAYS[:2]) for table in ("features", "history_counts", "items")}
    hashes = hash_tables(conf, spark)["items"]
    later = {**ITEMS, "s0": "changed", "s11": "appended"}
    del later["s1"]
    write_items(tmp_path, later)
    run_night(conf, spark, DS)

    assert {table: list_files(conf, table, DAYS[:2]) for table in first} == first
    assert all(first[table] for table in ("features", "history_counts"))
    added = read(conf, spark, "items").query(f"ds == '{DS}'").set_index("key")["category"]
    assert dict(added) == {"s0": "changed", "s11": "appended"}
    assert {day: found for day, found in hash_tables(conf, spark)["items"].items() if day != DS} == hashes
    found = read(conf, spark, "features")
    known = {day: {**ITEMS, **later} if day == DS else ITEMS for day in DAYS}
    want = [known[ds].get(sku) for ds, sku in zip(found["ds"], found["item_id"], strict=True)]
    assert [None if pd.isna(c) else c for c in found["items_category"]] == want
    assert {"changed", "appended", "c1", None} <= set(want)
    # Rows to score get the attributes of their day, too.
    store = WarehouseTables(conf, spark)
    scored = select_columns(conf, store.read("impressions"), conf.features)
    scored = add_columns(conf, store, scored, conf.features).toPandas()
    assert (
        dict(zip(scored["impression_id"], scored["items_category"], strict=True)).items()
        >= dict(zip(found["impression_id"], found["items_category"], strict=True)).items()
    )
    entries = read_rows(store.warehouse.table("ledger"), f"step = 'ingest.items' AND ds = '{DS}'")
    assert {(e["reason"], e["rows_in"], e["rows_out"]) for e in entries} == {("", 2, 2), (KNOWN, 9, 0)}


@pytest.mark.slow
@on_request
def test_nights_in_another_order_and_again(tmp_path: Path, spark: SparkSession) -> None:
    """A night that runs again writes the same rows, and an older night neither removes nor backdates later rows."""
    conf = configure(tmp_path)
    for day in DAYS[:2]:
        run_night(conf, spark, day)
    write_items(tmp_path, {**ITEMS, "s0": "changed"})
    write_old(tmp_path, [*OLD, ("p4", "s4", "watch", 9)])
    run_night(conf, spark, DS)
    want, rows = hash_tables(conf, spark), read_features(conf, spark)
    assert {name: sorted(days) for name, days in want.items()} == {
        "items": sorted([DS, NO_DAY]), "behaviours": sorted([DS, BEFORE_FIRST_DAY])
    }  # fmt: skip
    for day in (DS, DAYS[1], DAYS[0], DS):
        run_night(conf, spark, day)
        assert hash_tables(conf, spark) == want, day
    pd.testing.assert_frame_equal(read_features(conf, spark), rows)
    write_items(tmp_path, {**ITEMS, "s0": "changed", "s2": "later"})
    run_night(conf, spark, DAYS[1])
    assert hash_tables(conf, spark) == want
    assert set(table_hashes.read_hashes(conf, DAYS[1])["items"]) == {NO_DAY}
    # Other settings of the log start over, and so does --full: everything counts as seen at first.
    forget_days(conf, "ingest")
    run_night(conf, spark, DS)
    assert {name: sorted(days) for name, days in hash_tables(conf, spark).items()} == {
        "items": [NO_DAY], "behaviours": [BEFORE_FIRST_DAY]
    }  # fmt: skip
    write_items(tmp_path, {**ITEMS, "s3": "other"})
    changed = load_again(tmp_path, zone="Asia/Tokyo")
    ingest.run(changed, spark, DAYS[1])
    items = read(changed, spark, "items")
    assert dict(zip(items["key"], items["category"], strict=True)) == {**ITEMS, "s3": "other"}
    assert set(items["ds"]) == {NO_DAY}


@pytest.mark.slow
@on_request
def test_a_kill_between_rows_and_record(tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next attempt finds the rows of the killed one, but the files have changed again, or back."""
    folder = tmp_path / "killed"
    conf, other = configure(folder), configure(tmp_path / "whole")
    for settings_ in (conf, other):
        run_night(settings_, spark, DAYS[1])
    want = hash_tables(other, spark)
    shutil.copytree(folder / "logs", tmp_path / "backup")  # with the modification times

    write = DayRecords.write

    def fail(records: DayRecords, part: str, found: dict[str, Any]) -> None:
        if part == "ingest.items":
            raise OSError("killed")
        write(records, part, found)

    def kill() -> None:
        write_items(folder, {**ITEMS, "s0": "changed"})
        with monkeypatch.context() as patch:
            patch.setattr(DayRecords, "write", fail)
            with pytest.raises(OSError, match="killed"):
                ingest.run(conf, spark, DS)
        assert DS in hash_tables(conf, spark)["items"]

    kill()
    shutil.rmtree(folder / "logs/items")
    shutil.copytree(tmp_path / "backup/items", folder / "logs/items")
    ingest.run(conf, spark, DS)
    assert hash_tables(conf, spark) == want
    DayRecords(conf).remove("ingest.items", [DS])
    kill()
    for name in ("killed", "whole"):
        write_items(tmp_path / name, {**ITEMS, "s1": "changed"})
    for settings_ in (conf, other):
        run_night(settings_, spark, DS)
    assert hash_tables(conf, spark) == hash_tables(other, spark)
    pd.testing.assert_frame_equal(read_features(conf, spark), read_features(other, spark))


@pytest.mark.slow
def test_new_old_behaviours_count_from_the_night_that_saw_them(tmp_path: Path, spark: SparkSession) -> None:
    conf = configure(tmp_path)
    run_night(conf, spark, DAYS[0])
    first = list_files(conf, "features", DAYS[:1]) | list_files(conf, "history_counts", (BEFORE_FIRST_DAY,))
    more = [("p3", "s1", "like", 2), ("p5", "s1", "watch", 1), ("p5", "s1", "like", 3), OLD[0]]
    write_old(tmp_path, [*OLD[1:], *more])
    for day in DAYS[1:]:
        run_night(conf, spark, day)
    assert list_files(conf, "features", DAYS[:1]) | list_files(conf, "history_counts", (BEFORE_FIRST_DAY,)) == first
    assert set(read(conf, spark, "behaviours").query(f"ds == '{DAYS[1]}'")["user_id"]) == {"p3", "p5"}
    rows = read_features(conf, spark)
    of_item = rows[rows["item_id"] == "s1"]
    watches = {
        (ds, name): set(part[name]) for ds, part in of_item.groupby("ds") for name in ("old__watch", "now__watch")
    }
    # A cut at the start of a day does not see what became known on this day.
    assert watches == {
        (DAYS[0], "old__watch"): {"2.0"}, (DAYS[1], "old__watch"): {"2.0"}, (DS, "old__watch"): {"3.0"},
        (DAYS[0], "now__watch"): {"2.0"}, (DAYS[1], "now__watch"): {"3.0"}, (DS, "now__watch"): {"3.0"},
    }  # fmt: skip
    # Of the watches of s1, those of p1 and p5 were also liked when they were seen first: 1 - 1/2, 0 - 1/2, 1 - 2/3.
    liked = {ds: set(part["old__liked"].astype(float).round(5)) for ds, part in of_item.groupby("ds")}
    assert liked == {DAYS[0]: {0.0}, DAYS[1]: {0.0}, DS: {0.33333}}
    assert set(of_item["now__since_watch"]) == {"nan"}
    forget_days(conf, "features")
    features.run(conf, spark, DS)
    again = read_features(conf, spark)
    pd.testing.assert_frame_equal(again, rows)
