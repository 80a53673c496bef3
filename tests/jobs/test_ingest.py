"""Ingest of corrupt logs: the newest day, quarantine, and days that are written again."""

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
from star_ctr.jobs import ingest
from star_ctr.jobs.ingest import check_day_has_files
from star_ctr.jobs.io import table_hashes
from star_ctr.jobs.io.day_records import DayRecords
from star_ctr.jobs.io.newest_day import find_newest_day, list_complete
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.quality.day_checks import QuarantineCount, count_quarantined_days, describe_quarantine
from tests.jobs.messy_logs import DAYS, DS, settings, views, write_days


def table(conf: Settings, spark: SparkSession, name: str) -> pd.DataFrame:
    return WarehouseTables(conf, spark).read(name).toPandas()


def test_a_day_with_few_rows_is_not_complete() -> None:
    rows = {"2026-03-01": 60, "2026-03-02": 70, "2026-03-03": 55, "2026-03-09": 1, "2036-01-01": 900}
    assert list_complete(rows, "2026-03-20") == ["2026-03-01", "2026-03-02", "2026-03-03"]
    assert list_complete(rows, "2026-03-03") == ["2026-03-01", "2026-03-02"]  # today is not complete
    assert list_complete({"2026-03-01": 3}, "2026-03-20") == ["2026-03-01"]
    assert list_complete({"unknown": 3}, "2026-03-20") == []


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


@pytest.mark.spark
def test_features_of_missing_columns_stop_ingest(tmp_path: Path, spark: SparkSession) -> None:
    write_days(tmp_path, views())
    feature = {"name": "place", "kind": "categorical", "column": "impressions.slott"}
    with pytest.raises(DataError, match=r"features.place: logs.impressions has no column `slott`.*did you mean `slot`"):
        ingest.run(settings(tmp_path, features=[feature]), spark, DS)
