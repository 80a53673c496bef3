"""With grown vocabularies, the split stores the training rows of a day once, for all nights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from star_ctr.conf.contracts.dates import list_days
from star_ctr.conf.contracts.encoded_row import FIRST_KNOWN, Layout
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs import features, ingest, split
from star_ctr.jobs.io.day_records import DayRecords
from star_ctr.jobs.io.delta_rows import read_rows
from star_ctr.jobs.io.split_commits import read_split_commit
from star_ctr.jobs.io.split_rows import read_test_rows, read_train_rows
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.train import make_job
from star_ctr.model.data.reader import list_live_files, read_files
from tests.conftest import on_request
from tests.jobs.history.random_logs import RandomLogs

pytestmark = pytest.mark.spark
DAYS = list_days("2026-03-01", "2026-03-06")
KEYS = ["day", "impression_id"]


@pytest.fixture
def logs(tmp_path: Path) -> RandomLogs:
    """Logs of six days. Each day has an item that no other day has."""
    logs = RandomLogs(tmp_path / "logs", 11, DAYS, rows=60)
    for day in DAYS:
        logs.write(day)
        file = logs.folder / "views" / day / "part.csv"
        rows = pd.read_csv(file, dtype=str, keep_default_na=False)
        rows.loc[rows.index % 10 == 3, "sku"] = f"new-{day}"
        rows["at"] = day + rows["at"].str[10:]  # so that all labels of a day are final after the next one
        rows.to_csv(file, index=False)
    return logs


def configure(logs: RandomLogs, warehouse: Path, vocabulary: str = "grown", **label: object) -> Settings:
    return logs.configure(
        warehouse, label={"window_hours": 24, **label}, split={"vocabulary": vocabulary, "rows_per_file": 20}
    )


def read(conf: Settings, table: str) -> pd.DataFrame:
    return pd.DataFrame(read_rows(f"{conf.paths.warehouse}/{table}"))


def run_night(conf: Settings, spark: SparkSession, ds: str) -> dict[str, int]:
    ingest.run(conf, spark, ds)
    features.run(conf, spark, ds)
    return split.run(conf, spark, ds)


def read_train(conf: Settings, spark: SparkSession, ds: str) -> pd.DataFrame:
    """Read the training rows of a night through Spark, and check that the reader of the trainer has the same."""
    store = WarehouseTables(conf, spark)
    job = make_job(conf, store, ds)
    rows = read_train_rows(store, job).toPandas().sort_values(KEYS, ignore_index=True)
    files = list_live_files(job.split, job.versions["split"], job.train_partitions, job.layout)
    streamed = list(read_files(files, job.layout, days=True))
    assert sum(map(len, streamed)) == len(rows)
    assert sorted(np.concatenate([part.label for part in streamed])) == sorted(rows["label"])
    assert max(file.rows for file in files) <= 20
    assert set(read_test_rows(store, job).select("day").distinct().toPandas()["day"]) == {ds}
    return rows


def decode_skus(conf: Settings, spark: SparkSession, ds: str, rows: pd.DataFrame) -> list[str | None]:
    """Return the items of encoded rows, by the vocabularies of night `ds`."""
    store = WarehouseTables(conf, spark)
    layout: Layout = make_job(conf, store, ds).layout
    names = store.read("vocabularies").where(f"ds = '{ds}' AND embedding = 'sku'").toPandas()
    values = dict(zip(names["id"], names["value"], strict=True))
    position = [field.name for field in layout.categorical].index("sku")
    ids = [np.frombuffer(row, np.int32)[position] for row in rows["ints"]]
    return [values[k] if k >= FIRST_KNOWN else None for k in ids]


def list_day_files(conf: Settings, day: str) -> set[str]:
    return {uri for uri in DeltaTable(f"{conf.paths.warehouse}/split").file_uris() if f"ds={day}/part=train_day" in uri}


@pytest.mark.slow
def test_a_day_is_encoded_once_as_training_day(logs: RandomLogs, tmp_path: Path, spark: SparkSession) -> None:
    conf = configure(logs, tmp_path / "w")
    files: dict[str, set[str]] = {}
    for ds in DAYS[3:]:
        counts = run_night(conf, spark, ds)
        window = list_days(DAYS[DAYS.index(ds) - 3], DAYS[DAYS.index(ds) - 1])
        rows = read_train(conf, spark, ds)
        shown = read(conf, "features").query("ds in @window")
        shown = shown.rename(columns={"ds": "day"}).sort_values(KEYS, ignore_index=True)
        labels = read(conf, "labels").query("ds in @window")
        labels = labels.sort_values(["ds", "impression_id"], ignore_index=True)
        pd.testing.assert_frame_equal(rows[KEYS], shown[KEYS])
        assert counts["train"] == len(rows)
        assert (rows["label"] == labels["label"]).all()
        assert rows["label_final"].all()
        assert decode_skus(conf, spark, ds, rows) == list(shown["item_id"])
        now = {day: list_day_files(conf, day) for day in window}
        assert all(now.values())
        for day in files.keys() & now.keys():
            assert now[day] == files[day], f"night {ds} encoded {day} again"
        files |= now
    # The values of the newest day are not known to its test rows.
    store = WarehouseTables(conf, spark)
    test = read_test_rows(store, make_job(conf, store, DAYS[5])).toPandas()
    assert None in decode_skus(conf, spark, DAYS[5], test)
    # The trainer's pinned version keeps the rows of an older night.
    assert len(read_train(conf, spark, DAYS[3])) > 0


@pytest.mark.slow
def test_days_are_encoded_again_if_their_rows_or_ids_have_changed(
    logs: RandomLogs, tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = configure(logs, tmp_path / "w")
    for ds in DAYS[3:5]:
        run_night(conf, spark, ds)
    old = {day: list_day_files(conf, day) for day in DAYS[:5]}
    # A restated day changes its own features and those of later days.
    logs.write(DAYS[2])
    run_night(conf, spark, DAYS[4])
    new = {day: list_day_files(conf, day) for day in DAYS[:5]}
    assert {day for day in DAYS[:4] if new[day] != old[day]} == {DAYS[2], DAYS[3]}
    rows = read_train(conf, spark, DAYS[4])
    shown = read(conf, "features")
    shown = shown[shown["ds"].isin(DAYS[1:4])].sort_values(["ds", "impression_id"])
    assert decode_skus(conf, spark, DAYS[4], rows) == list(shown["item_id"])
    # If the step is killed before it has recorded the days, they are encoded again.
    logs.write(DAYS[3])
    ingest.run(conf, spark, DAYS[4])
    features.run(conf, spark, DAYS[4])
    write = DayRecords.write

    def fail(records: DayRecords, part: str, found: dict) -> None:
        if part == "split":
            raise OSError("killed")
        write(records, part, found)

    with monkeypatch.context() as patch:
        patch.setattr(DayRecords, "write", fail)
        with pytest.raises(OSError, match="killed"):
            split.run(conf, spark, DAYS[4])
    killed = {day: list_day_files(conf, day) for day in DAYS[1:4]}
    split.run(conf, spark, DAYS[4])
    changed = {day for day in DAYS[1:4] if list_day_files(conf, day) != killed[day]}
    assert changed == {day for day in DAYS[1:4] if killed[day] != new[day]}
    assert DAYS[3] in changed
    files = {day: list_day_files(conf, day) for day in DAYS[1:4]}
    split.run(conf, spark, DAYS[4])
    assert {day: list_day_files(conf, day) for day in DAYS[1:4]} == files


@pytest.mark.slow
@on_request
def test_open_labels_and_a_fitted_vocabulary(logs: RandomLogs, tmp_path: Path, spark: SparkSession) -> None:
    """A day with open labels is encoded until they are final; the rows of fitted nights stay apart from those of days."""
    conf = configure(logs, tmp_path / "w", window_hours=30)
    for ds in DAYS[3:6]:
        run_night(conf, spark, ds)
        rows = read_train(conf, spark, ds)
        window = list_days(DAYS[DAYS.index(ds) - 3], DAYS[DAYS.index(ds) - 1])
        labels = read(conf, "labels").sort_values(["ds", "impression_id"])
        labels = labels[labels["ds"].isin(window)]
        final = labels[labels["is_final"]]
        assert 0 < len(final) < len(labels)
        assert list(rows["impression_id"]) == list(final["impression_id"])
        assert list(rows["label"]) == list(final["label"])
    grown = read_train(conf, spark, DAYS[5])
    fitted = configure(logs, tmp_path / "w", "fitted", window_hours=30)
    assert split.run(fitted, spark, DAYS[5])["train"] == len(grown)
    again = read_train(fitted, spark, DAYS[5])
    pd.testing.assert_frame_equal(again[[*KEYS, "label"]], grown[[*KEYS, "label"]])
    assert set(again["part"]) == {"train"}
    # The days are still there for the next night.
    assert all(list_day_files(conf, day) for day in DAYS[2:5])
    before = {day: list_day_files(conf, day) for day in DAYS[2:5]}
    split.run(conf, spark, DAYS[5])
    assert {day: list_day_files(conf, day) for day in DAYS[2:5]} == before


@pytest.mark.slow
def test_ids_of_expired_values_are_used_again_without_changing_encoded_days(
    logs: RandomLogs, tmp_path: Path, spark: SparkSession
) -> None:
    conf = logs.configure(
        tmp_path / "w",
        split={"vocabulary": "grown", "rows_per_file": 20},
        window={"days": 2},
        model={"layers": [4], "dim": 2, "embeddings": {"sku": {"expire_days": 2}}},
    )
    store = WarehouseTables(conf, spark)
    owners: dict[int, set[str]] = {}
    sizes, expired, before = [], [], set[str]()
    for ds in DAYS[2:]:
        run_night(conf, spark, ds)
        window = list_days(DAYS[DAYS.index(ds) - 2], DAYS[DAYS.index(ds) - 1])
        rows = read_train(conf, spark, ds)
        shown = read(conf, "features").query("ds in @window").sort_values(["ds", "impression_id"])
        assert decode_skus(conf, spark, ds, rows) == list(shown["item_id"])
        known = store.read("vocabularies").where(f"ds = '{ds}' AND embedding = 'sku'").toPandas()
        assert known["last_seen"].min() >= window[0]
        for value, i in zip(known["value"], known["id"], strict=True):
            owners.setdefault(i, set()).add(value)
        _, metadata = read_split_commit(store.warehouse.table("split"), ds)
        expired.append(metadata.get("expired", {}).get("sku", 0))
        assert expired[-1] == len(before - set(known["value"]))
        before = set(known["value"])
        sizes.append(make_job(conf, store, ds).layout.embeddings["sku"])
        assert sizes[-1] == known["id"].max() + 1
    assert max(map(len, owners.values())) > 1, "no id was used again"
    assert sum(expired) >= 1, "no value has expired"
    assert sizes[-1] < FIRST_KNOWN + len(set().union(*owners.values()))
