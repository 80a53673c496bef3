"""Features with keys that expire, computed day by day, at once, and row by row."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from star_ctr.conf.contracts.dates import list_days
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs import features, ingest
from star_ctr.jobs.history import roll_ups
from star_ctr.jobs.history.roll_ups import EPOCH, count_days
from star_ctr.jobs.io.delta_rows import read_rows
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.tools import vacuum
from tests.conftest import on_request
from tests.jobs.history.random_logs import FEATURES, ZONE, RandomLogs

pytestmark = [pytest.mark.spark, pytest.mark.slow]
DAYS = list_days("2026-03-01", "2026-03-11")
MORE = [
    {"name": "pair", "kind": "statistic", "by": ["user_id", "item_id"], "counts": ["shown"]},
    {"name": "recent", "kind": "statistic", "by": ["user_id", "item_id"], "counts": ["shown"], "cut": "time"},
]


def run_night(conf: Settings, spark: SparkSession, ds: str) -> None:
    ingest.run(conf, spark, ds)
    features.run(conf, spark, ds)


def read(conf: Settings, spark: SparkSession, table: str) -> pd.DataFrame:
    return WarehouseTables(conf, spark).read(table).toPandas()


def read_features(conf: Settings, spark: SparkSession, days: list[str]) -> pd.DataFrame:
    rows = read(conf, spark, "features")
    rows = rows[rows["ds"].isin(days)].sort_values(["ds", "ts", "impression_id"]).reset_index(drop=True)
    return rows[sorted(rows.columns)]


def find_counting(events: pd.DataFrame, cut: int, expire_days: int) -> pd.DataFrame:
    """Return the events before the day of a cut that have not expired."""
    visible, following, counted = events[events["known"] < cut], cut, set()
    for day in sorted(set(visible["log_day"]), reverse=True):
        if following - day > expire_days:
            break
        following = day
        counted.add(day)
    return visible[visible["log_day"].isin(counted)]


def check_row_by_row(conf: Settings, spark: SparkSession, days: list[str], expire_days: int) -> int:
    """Compare features with a loop over the impressions; returns how many rows lost an event."""
    shown = read(conf, spark, "impressions").sort_values(["ts", "impression_id"])
    local = shown["ts"].dt.tz_localize("UTC").dt.tz_convert(ZONE)
    start = pd.to_datetime(shown["ds"]).dt.tz_localize(ZONE)
    shown["known_at"] = local.where(local > start, start)
    shown["cut_at"] = local.where(local < start + pd.Timedelta(days=1), start + pd.Timedelta(days=1))
    shown["log_day"] = [count_days(day) for day in shown["ds"]]
    own_day = [count_days(str(t.date())) for t in local]
    shown["known"], shown["cut"] = shown["log_day"].clip(lower=own_day), shown["log_day"].clip(upper=own_day)
    found, dropped = read_features(conf, spark, days).set_index("impression_id"), 0
    for row in shown[shown["ds"].isin(days)].itertuples():
        same_user = shown[shown["user_id"] == row.user_id]
        same_pair = same_user[same_user["item_id"] == row.item_id]
        counting = find_counting(same_pair, row.cut, expire_days)
        today = same_pair[(same_pair["known"] == row.cut) & (same_pair["known_at"] < row.cut_at)]
        last = find_counting(same_user, row.cut, expire_days).sort_values(["known_at", "ts", "impression_id"])
        want = (len(counting), len(counting) + len(today), list(last["item_id"].tail(2)))
        got = found.loc[(found.index == row.impression_id) & (found["ds"] == row.ds)].iloc[0]
        assert (got["pair__shown"], got["recent__shown"], list(got["before__item_id"])) == want, row
        dropped += len(counting) < (same_pair["known"] < row.cut).sum()
    return dropped


def clean(conf: Settings) -> None:
    planned = vacuum.plan_removals(conf)
    vacuum.remove(conf, planned)


def count_partitions(conf: Settings, span: int) -> int:
    partitions = DeltaTable(f"{conf.paths.warehouse}/history_counts").partitions()
    return sum(int(p["span"]) == span for p in partitions)


@on_request
@pytest.mark.parametrize(("expire_days", "with_clean"), [(1, False), (2, True)])
def test_days_one_by_one_equal_all_days_at_once(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch, expire_days: int, with_clean: bool
) -> None:
    """Deleting what a base contains changes nothing, even if an older day is restated or a cut is before the base."""
    monkeypatch.setattr(roll_ups, "SPANS", (2, 4))
    logs = RandomLogs(tmp_path / "logs", 10 + expire_days, DAYS, rows=9)
    # Decay reads many single days, so `clean` would keep all of them.
    used = [feature for feature in [*FEATURES, *MORE] if not (with_clean and "half_life_days" in feature)]
    more = {"state": {"expire_days": expire_days}, "features": used, "retention": {"history": 1}}
    conf = logs.configure(tmp_path / "daily", window={"days": 1}, **more)
    missing = DAYS[4:6]
    for day in DAYS:
        if day not in missing:
            logs.write(day)
    deleted = 0
    for day in [*DAYS[1:4], *DAYS[6:9]]:
        run_night(conf, spark, day)
        if with_clean:
            before = count_partitions(conf, 1)
            clean(conf)
            deleted += before - count_partitions(conf, 1)
    assert (deleted > 0) == with_clean
    logs.write(DAYS[5])  # arrives late
    logs.write(DAYS[2])  # other rows
    # A night reads the days of its window again.
    ingest.run(logs.configure(tmp_path / "daily", window={"days": 10}, **more), spark, DAYS[9])
    for day in DAYS[9:]:
        run_night(conf, spark, day)
        if with_clean:
            clean(conf)
    partitions = DeltaTable(f"{conf.paths.warehouse}/history_counts").partitions()
    assert max(int(p["span"]) for p in partitions if p["ds"] == EPOCH) == (count_days(DAYS[-1]) + 1) // 4 * 4
    assert sum(p["ds"] == EPOCH for p in partitions) == 2
    ledger = read_rows(f"{conf.paths.warehouse}/ledger", "step LIKE 'history_counts.%'")
    assert {e["step"] for e in ledger} == {f"history_counts.{name}" for name in ("2", "4", "base")}
    assert sum(e["rows_in"] - e["rows_out"] for e in ledger) > 5

    at_once = logs.configure(tmp_path / "once", window={"days": 10}, **more)
    run_night(at_once, spark, DAYS[-1])
    window = DAYS[-2:]
    pd.testing.assert_frame_equal(
        read_features(conf, spark, window).astype(str), read_features(at_once, spark, window).astype(str)
    )
    assert check_row_by_row(at_once, spark, DAYS[3:], expire_days) > 3
    if with_clean:
        shutil.rmtree(f"{conf.paths.warehouse}/features")  # cuts before the base need the deleted days
        wide = logs.configure(tmp_path / "daily", window={"days": 10}, **more)
        features.run(wide, spark, DAYS[-1])
        found, want = (read_features(c, spark, DAYS).astype(str) for c in (wide, at_once))
        pd.testing.assert_frame_equal(found, want)
