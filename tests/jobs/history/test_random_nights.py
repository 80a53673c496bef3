"""Features of nights in any order equal those that are computed at once, on logs that hypothesis generates."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from star_ctr.conf.contracts.dates import list_days
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs import features, ingest
from star_ctr.jobs.history import roll_ups
from star_ctr.jobs.history.state import HistoryState
from star_ctr.jobs.io.delta_rows import read_rows
from star_ctr.jobs.io.warehouse import WarehouseTables
from tests.conftest import on_request
from tests.jobs.history.random_logs import FEATURES, RandomLogs

pytestmark = [pytest.mark.spark, pytest.mark.slow]
ZONE = "Europe/Berlin"
DAYS = list_days("2026-03-26", "2026-04-01")  # the clock changes on 2026-03-29
MORE = [
    {"name": "wide", "kind": "statistic", "by": ["user_id", "item_id", "domain"], "counts": ["shown", "spend"],
     "since": ["shown"], "last_days": 4, "half_life_days": 1.5},
    {"name": "timed", "kind": "statistic", "by": ["user_id", "item_id"], "counts": ["shown", "click"], "cut": "time"},
    {"name": "later", "kind": "sequence", "of": ["shown", "click"], "columns": {"item_id": "sku"}, "length": 4,
     "gap": True, "cut": "time"},
]  # fmt: skip
EVENTS = st.tuples(st.integers(0, len(DAYS) - 1), st.sampled_from(["night", "write", "drop"]))
"""What happens: a night, a log day with new rows, or a log day that is withdrawn."""


class TiedLogs(RandomLogs):
    """Random logs with many times that are equal or near the start of a day or a change of the clock."""

    def _draw_times(self, start: pd.Timestamp, n: int) -> pd.Series:
        times = super()._draw_times(start, n)
        near = start + pd.to_timedelta(self.rng.choice([0, 1, 7_200, 10_800, 86_399], n), "s")
        return times.where(self.rng.random(n) < 0.6, pd.Series(near))


def run_night(conf: Settings, spark: SparkSession, ds: str) -> None:
    ingest.run(conf, spark, ds)
    features.run(conf, spark, ds)


def read(conf: Settings, spark: SparkSession, table: str, days: list[str]) -> pd.DataFrame:
    rows = WarehouseTables(conf, spark).read(table).toPandas()
    rows = rows[rows["ds"].isin(days)]
    rows = rows.sort_values(["ds", "impression_id", *(["ts"] if "ts" in rows else [])]).reset_index(drop=True)
    return rows[sorted(set(rows.columns) - {"as_of"})].astype(str)


@on_request  # test_state.py compares nights in one order
@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), print_blob=True)
@given(
    seed=st.integers(0, 1000),
    events=st.lists(EVENTS, min_size=3, max_size=4),
    expire_days=st.sampled_from([None, 1, 2]),
    window=st.integers(1, 3),
)
def test_nights_in_any_order_equal_all_days_at_once(
    spark: SparkSession, seed: int, events: list[tuple[int, str]], expire_days: int | None, window: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(roll_ups, "SPANS", (2, 4)):
        logs = TiedLogs(Path(folder) / "logs", seed, DAYS, rows=12)
        more: dict[str, Any] = {
            "zone": ZONE, "state": {"expire_days": expire_days}, "features": [*FEATURES, *MORE], "label": {"window_hours": 30},
        }  # fmt: skip
        conf = logs.configure(Path(folder) / "daily", window={"days": window}, **more)
        written = {day for number, day in enumerate(DAYS) if number != seed % len(DAYS)}
        for day in sorted(written):
            logs.write(day)
        run_night(conf, spark, min(written))
        for number, event in events:
            day = DAYS[number]
            if event == "write":
                logs.write(day)
                written.add(day)
            elif event == "drop" and len(written) > 3:
                for log in ("views", "carts", "items"):
                    for file in (logs.folder / log / day).glob("*.csv"):
                        file.unlink()
                written.discard(day)
            elif day in written:
                run_night(conf, spark, day)
        last = max(written)
        # Withdrawn days are removed by a night whose window contains them.
        ingest.run(logs.configure(Path(folder) / "daily", window={"days": len(DAYS)}, **more), spark, last)
        features.run(conf, spark, last)
        at_once = logs.configure(Path(folder) / "once", window={"days": len(DAYS)}, **more)
        run_night(at_once, spark, last)
        days = list_days(DAYS[0], last)[-window - 1 :]
        for table in ("features", "labels"):
            pd.testing.assert_frame_equal(read(conf, spark, table, days), read(at_once, spark, table, days))
        state = HistoryState(conf, WarehouseTables(conf, spark), last)
        assert state.list_days_to_compute() == []
        assert len(read_rows(f"{conf.paths.warehouse}/days", "part = 'history'")) == len(state.days)
