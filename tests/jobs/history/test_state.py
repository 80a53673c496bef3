"""Features that are computed day by day equal those that are computed at once, whatever arrives when."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.contracts.dates import list_days
from star_ctr.conf.settings.root import Settings
from star_ctr.features.point_in_time.daily_counts import GROUP, name_low
from star_ctr.jobs import features, ingest
from star_ctr.jobs.history import roll_ups
from star_ctr.jobs.history.merged_state import HISTORY_PART
from star_ctr.jobs.history.roll_ups import Partition, choose_partitions, count_days, format_day, list_blocks
from star_ctr.jobs.history.state import HistoryState
from star_ctr.jobs.io.day_records import DayRecords, forget_days
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.quality.measures import read_measures
from tests.conftest import on_request
from tests.jobs.history.random_logs import FEATURES, FEW_FEATURES, ZONE, RandomLogs

pytestmark = pytest.mark.spark
DAYS = list_days("2026-03-01", "2026-03-08")


@pytest.fixture(autouse=True)
def _roll_up_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use roll-ups of two and four days, so that a few days have both."""
    monkeypatch.setattr(roll_ups, "SPANS", (2, 4))


def run_night(conf: Settings, spark: SparkSession, ds: str) -> None:
    ingest.run(conf, spark, ds)
    features.run(conf, spark, ds)


def read_features(conf: Settings, spark: SparkSession, days: list[str]) -> pd.DataFrame:
    """Read the features and labels of some days, sorted, as text."""
    store = WarehouseTables(conf, spark)
    labels = store.read("labels").select("ds", "impression_id", "label", "is_final").toPandas()
    rows = store.read("features").toPandas().merge(labels, "outer", ["ds", "impression_id"], validate="1:1")
    rows = rows[rows["ds"].isin(days)].sort_values(["ds", "ts", "impression_id"]).reset_index(drop=True)
    return rows[sorted(rows.columns)].astype(str)


def list_files(conf: Settings, table: str, part: str) -> set[str]:
    return {uri for uri in DeltaTable(f"{conf.paths.warehouse}/{table}").file_uris() if part in uri}


@pytest.mark.slow
def test_days_one_by_one_equal_all_days_at_once(tmp_path: Path, spark: SparkSession) -> None:
    """With a restated day, a missing day that arrives later, late clicks and windows that overlap."""
    logs = RandomLogs(tmp_path / "logs", 1, DAYS)
    conf = logs.configure(tmp_path / "daily")
    for day in [*DAYS[:4], *DAYS[5:6]]:  # the fifth day is missing
        logs.write(day)
    for day in (DAYS[1], DAYS[3]):
        run_night(conf, spark, day)
    before = list_files(conf, "history_counts", "ds=2026-03-0")
    run_night(conf, spark, DAYS[5])
    assert before <= list_files(conf, "history_counts", "ds=2026-03-0"), "the state of earlier days was written again"
    logs.write(DAYS[4])
    logs.write(DAYS[3])  # other rows
    for day in DAYS[6:8]:
        logs.write(day)
    for day in (DAYS[6], DAYS[7]):
        run_night(conf, spark, day)
    spans = {p["span"] for p in DeltaTable(f"{conf.paths.warehouse}/history_counts").partitions()}
    assert spans == {"1", "2", "4"}

    at_once = logs.configure(tmp_path / "once", window={"days": 7})
    run_night(at_once, spark, DAYS[7])
    window = DAYS[4:8]
    daily, once = read_features(conf, spark, window), read_features(at_once, spark, window)
    assert len(daily) > 100
    pd.testing.assert_frame_equal(daily, once)
    assert daily["label"].astype(float).between(0.1, 0.9).sum() == 0
    for column in ("by_kind__spend", "week__spend", "faded__spend", "now__spend", "last__item_id", "before__item_id"):
        assert daily[column].nunique() > 5, column


def test_a_day_is_computed_once(tmp_path: Path, spark: SparkSession) -> None:
    """A new day gives the day before new labels, but neither new features nor new state."""
    logs = RandomLogs(tmp_path / "logs", 2, DAYS)
    conf = logs.configure(tmp_path / "daily", features=FEW_FEATURES)
    for day in DAYS[:3]:
        logs.write(day)
    run_night(conf, spark, DAYS[2])
    counts = list_files(conf, "history_counts", "span=1")
    first = {day: list_files(conf, "features", f"ds={day}") for day in DAYS[:3]}
    old = read_features(conf, spark, DAYS[:3])
    run_night(conf, spark, DAYS[2])
    assert {day: list_files(conf, "features", f"ds={day}") for day in DAYS[:3]} == first
    logs.write(DAYS[3])
    run_night(conf, spark, DAYS[3])
    assert counts <= list_files(conf, "history_counts", "span=1")
    new = read_features(conf, spark, DAYS[:3])
    columns = ["label", "is_final"]
    pd.testing.assert_frame_equal(new.drop(columns=columns), old.drop(columns=columns))
    changed = new[new["label"] != old["label"]]
    assert set(changed["ds"]) == {DAYS[2]}
    assert set(changed["label"]) == {"1.0"}


@pytest.mark.slow
@on_request
def test_a_killed_step_leaves_the_old_state(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop after each write of the state and of the features; the next attempt computes the same rows."""
    logs = RandomLogs(tmp_path / "logs", 3, DAYS)
    for day in DAYS[:5]:
        logs.write(day)
    conf, other = logs.configure(tmp_path / "killed"), logs.configure(tmp_path / "whole")
    run_night(conf, spark, DAYS[3])
    ingest.run(conf, spark, DAYS[4])
    write = DayRecords.write
    for part in (HISTORY_PART, f"{HISTORY_PART}.2", features.PART):
        with monkeypatch.context() as patch:

            def fail(records: DayRecords, name: str, found: dict, part: str = part) -> None:
                if name == part:
                    raise OSError("killed")
                write(records, name, found)

            patch.setattr(DayRecords, "write", fail)
            with pytest.raises(OSError, match="killed"):
                features.run(conf, spark, DAYS[4])
    features.run(conf, spark, DAYS[4])
    for day in DAYS[3:5]:
        run_night(other, spark, day)
    pd.testing.assert_frame_equal(read_features(conf, spark, DAYS[1:5]), read_features(other, spark, DAYS[1:5]))


@pytest.mark.slow
@on_request
def test_lost_records_and_tables_do_not_lose_history(tmp_path: Path, spark: SparkSession) -> None:
    """Also with a warehouse of an earlier version, which has no table `days`, and without a feature."""
    logs = RandomLogs(tmp_path / "logs", 5, DAYS)
    for day in DAYS[:5]:
        logs.write(day)
    conf = logs.configure(tmp_path / "lost", window={"days": 1})
    for day in DAYS[1:5]:
        run_night(conf, spark, day)
    want = read_features(conf, spark, DAYS[3:5])
    warehouse = Path(conf.paths.warehouse)
    for lose in (
        lambda: forget_days(conf, "ingest"),
        lambda: shutil.move(warehouse / "days", tmp_path / "days"),
        lambda: shutil.move(warehouse / "history_counts", tmp_path / "history_counts"),
    ):
        lose()
        run_night(conf, spark, DAYS[4])
        pd.testing.assert_frame_equal(read_features(conf, spark, DAYS[3:5]), want)
    fewer = [f for f in FEATURES if f["name"] != "by_sku"]
    conf = logs.configure(warehouse, window={"days": 1}, features=fewer)
    logs.write(DAYS[5])
    for day in DAYS[4:6]:
        run_night(conf, spark, day)
    assert read_features(conf, spark, [DAYS[5]])["now__shown"].nunique() > 5
    measures = read_measures(conf, DAYS[5])
    assert {m.ds for m in measures if m.log == "items"} >= set(DAYS[3:6])


@pytest.mark.slow
def test_a_day_without_record_counts_once(tmp_path: Path, spark: SparkSession) -> None:
    """Statistics with `last_days` read a day alone that the others read as part of a roll-up."""
    logs = RandomLogs(tmp_path / "logs", 5, DAYS)
    for day in DAYS[:5]:
        logs.write(day)
    conf = logs.configure(tmp_path / "lost")
    run_night(conf, spark, DAYS[4])

    def sum_counts() -> dict[str, int]:
        state = HistoryState(conf, WarehouseTables(conf, spark), DAYS[4])
        spans.append({p.span for p in state.merged.choose_partitions(count_days(DAYS[4]), 0)})
        counts = state.open([count_days(DAYS[4])]).counts
        assert counts is not None
        return {r[0]: r[1] for r in counts.groupBy(GROUP).agg(F.sum(name_low("shown"))).collect()}

    spans: list[set[int]] = []
    want = sum_counts()
    DayRecords(conf).remove(HISTORY_PART, [DAYS[2]])
    assert sum_counts() == want
    assert spans == [{1, 4}] * 2


@pytest.mark.slow
@on_request
def test_an_older_night_after_a_correction(tmp_path: Path, spark: SparkSession) -> None:
    """The carts of all days are in one file, which is read as a whole."""
    logs = RandomLogs(tmp_path / "logs", 6, DAYS)
    for day in DAYS[:4]:
        logs.write(day)
    carts = tmp_path / "logs" / "carts.csv"
    parts = [pd.read_csv(f) for f in sorted((tmp_path / "logs" / "carts").glob("*/*.csv"))]
    pd.concat(parts[1:]).to_csv(carts, index=False)
    log = {"behaviours": {"path": "carts.csv", "format": "csv", "user": "user", "item": "sku", "behaviour": "what",
                          "time": {"column": "at", "unit": "timestamp", "zone": ZONE}}}  # fmt: skip
    conf, other = logs.configure(tmp_path / "again", log), logs.configure(tmp_path / "other", log)
    for day in DAYS[2:4]:
        run_night(conf, spark, day)
    pd.concat(parts).to_csv(carts, index=False)
    for settings in (conf, other):
        run_night(settings, spark, DAYS[2])
    pd.testing.assert_frame_equal(read_features(conf, spark, DAYS[:3]), read_features(other, spark, DAYS[:3]))


@pytest.mark.slow
def test_clicks_of_the_day_before_count_in_a_short_window(tmp_path: Path, spark: SparkSession) -> None:
    """The calendar day of most rows is not their log day."""
    logs = RandomLogs(tmp_path / "logs", 7, DAYS)
    for day in DAYS[:4]:
        logs.write(day)
    more = {"zone": "America/New_York", "label": {"window_hours": 0.5}}
    timed = [{"name": "now", "kind": "statistic", "by": ["domain"], "counts": ["click", "shown"], "cut": "time"}]
    daily = logs.configure(tmp_path / "daily", features=[*FEATURES[:1], *timed], **more)
    once = logs.configure(tmp_path / "once", features=[*FEATURES[:1], *timed], **more)
    for day in DAYS[:4]:
        run_night(daily, spark, day)
    ingest.run(once, spark, DAYS[3])
    features.run(once, spark, DAYS[3])
    pd.testing.assert_frame_equal(read_features(daily, spark, DAYS[:4]), read_features(once, spark, DAYS[:4]))


def test_few_partitions_hold_the_state_of_many_days() -> None:
    """The partitions cover each day once, and roll-ups end before the horizon."""
    days = {day: day for day in list_days("2025-01-03", "2026-03-09")}
    newest = list(days)[-1]
    stored = {span: list_blocks(days, newest, span) for span in (8, 64)}
    for horizon in (0, 30):
        partitions = choose_partitions(days, stored, newest, count_days(newest), horizon)
        covered = sorted(format_day(count_days(p.ds) + k) for p in partitions for k in range(p.span))
        assert [day for day in covered if day in days] == list(days)
        assert len(partitions) <= 8 + 8 + 8 + 7 + horizon
        assert max(count_days(p.ds) + p.span for p in partitions if p.span > 1) <= count_days(newest) - horizon
        assert Partition(1, newest) in partitions
    restated = {**days, "2025-06-01": "other rows"}
    partitions = choose_partitions(restated, stored, newest, count_days(newest), 0)
    assert Partition(1, "2025-06-01") in partitions
    assert not any(p.span > 1 and 0 <= count_days("2025-06-01") - count_days(p.ds) < p.span for p in partitions)
