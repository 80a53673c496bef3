"""A process that is killed while it advances the history leaves the old state, and the night can run again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from pyspark.sql import SparkSession

from star_ctr.conf.contracts.dates import list_days
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs import features, ingest
from star_ctr.jobs.history import roll_ups
from star_ctr.jobs.io.delta_rows import read_rows
from tests.conftest import LONG
from tests.jobs.history.random_logs import FEW_FEATURES, RandomLogs

pytestmark = [pytest.mark.spark, pytest.mark.slow]
DAYS = list_days("2026-03-01", "2026-03-05")
TABLES = ("history_counts", "history_events", "features", "labels")
PARTS = ("history_counts/span=1", "history_events/span=1", "history_counts/span=2", "features")
RUN = """
import sys
from star_ctr.conf.load import load
from star_ctr.jobs import features
from star_ctr.jobs.history import roll_ups
from star_ctr.jobs.io import session
roll_ups.SPANS = (2, 4)
settings = load(sys.argv[1], ["spark.master=local[1]"])
spark = session.start(settings, "to be killed")
print("ready", flush=True)
features.run(settings, spark, sys.argv[2])
"""


def read_tables(conf: Settings, days: list[str]) -> dict[str, pd.DataFrame]:
    """Read the rows of some days of all tables, sorted, without what depends on the time of the run."""
    found = {}
    for table in TABLES:
        rows = pd.DataFrame(read_rows(f"{conf.paths.warehouse}/{table}")).astype(str)
        rows = rows[rows["ds"].isin(days)]
        found[table] = rows.sort_values(sorted(rows.columns), ignore_index=True)
    return found


def list_files(conf: Settings, part: str) -> set[str]:
    return {str(file) for file in Path(conf.paths.warehouse).glob(f"{part}/**/*.parquet")}


def test_a_kill_while_the_history_advances(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roll_ups, "SPANS", (2, 4))
    logs = RandomLogs(tmp_path / "logs", 13, DAYS)
    for day in DAYS:
        logs.write(day)
    conf, other = (logs.configure(tmp_path / name, features=FEW_FEATURES) for name in ("killed", "whole"))
    for settings in (conf, other):
        ingest.run(settings, spark, DAYS[3])
        features.run(settings, spark, DAYS[3])
        ingest.run(settings, spark, DAYS[4])
    old = read_tables(conf, DAYS[:4])
    # Each run is killed at its first file of a part of the state. Roll-ups and features come after the state of the day.
    for part in PARTS if LONG else PARTS[1::2]:
        files = list_files(conf, part)
        arguments = [sys.executable, "-c", RUN, str(tmp_path / "killed.yaml"), DAYS[4]]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        while process.poll() is None and not (list_files(conf, part) - files):
            time.sleep(0.002)
        assert process.poll() is None, f"{part}: the process ended before it was killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        now = read_tables(conf, DAYS[:3])
        for table in TABLES[:3]:  # labels of earlier days may be computed again
            is_known = old[table]["ds"].isin(DAYS[:3])
            pd.testing.assert_frame_equal(
                now[table], old[table][is_known].reset_index(drop=True), obj=f"{part} {table}"
            )
    for settings in (conf, other):
        features.run(settings, spark, DAYS[4])
    killed, whole = read_tables(conf, DAYS), read_tables(other, DAYS)
    for table in TABLES:
        pd.testing.assert_frame_equal(killed[table], whole[table], obj=table)
