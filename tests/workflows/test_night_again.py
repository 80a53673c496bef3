"""A night that is run again, completely or in part, killed, or replayed writes the same tables."""

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

from star_ctr.conf.load import load
from star_ctr.jobs import features, ingest, split
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.registry.attempts import get_published_attempt
from star_ctr.jobs.tools import replay, vacuum
from star_ctr.workflows import backfill, nightly
from tests import small_logs
from tests.conftest import on_request
from tests.workflows.small_night import DS, Night

pytestmark = pytest.mark.spark


def test_a_night_that_runs_again_writes_the_same_tables(night: Night) -> None:
    before = night.contents()
    again = nightly.run(night.settings, night.spark, DS)["metrics"]
    assert again == night.metrics
    after = night.contents()
    assert before.keys() == after.keys()
    for name, rows in before.items():
        pd.testing.assert_frame_equal(rows, after[name], obj=name)


def test_a_backfill_runs_only_steps_with_changed_inputs(night: Night, spark: SparkSession) -> None:
    report = backfill.run(night.settings, spark, DS, DS)
    assert {r["action"] for r in report} == {"kept"}
    before = night.contents()
    clicks = Path(night.settings.paths.logs) / "clicks" / "all.jsonl"
    os.utime(clicks, (1, 1))
    report = backfill.run(night.settings, spark, None, DS)
    assert [(r["step"], r["action"]) for r in report if r["action"] != "kept"] == [("ingest", "run")]
    assert "logs.clicks" in report[0]["reason"]
    after = night.contents()
    assert before.keys() == after.keys()
    for name, rows in before.items():
        pd.testing.assert_frame_equal(after[name], rows)


def test_a_replay_after_cleaning_gives_the_same_bits(night: Night, spark: SparkSession) -> None:
    store = WarehouseTables(night.settings, spark)
    run_id = night.metrics[0]["run_id"]
    recorded_version = get_published_attempt(store.warehouse, run_id).record()["versions"]["split"]
    for _ in range(2):  # two newer versions that no run refers to
        split.run(night.settings, spark, DS)
    removed = {
        r["table"]: r["files"]
        for r in vacuum.vacuum_files(night.settings, vacuum.plan_removals(night.settings).kept, 0)
    }
    assert removed["split"] > 0
    with pytest.raises(Exception, match="(?i)file"):
        store.read("split", recorded_version + 1).toPandas()
    again = replay.run(night.settings, spark, run_id)
    assert (again["weights"], again["metrics"], again["code"]) == ("the same bits", "the same", "the same")


RUN = """
import sys
from star_ctr.conf.load import load
from star_ctr.jobs import features
from star_ctr.jobs.io import session
from star_ctr.jobs.io.day_records import forget_days
settings = load(sys.argv[1], ["spark.master=local[1]"])
spark = session.start(settings, "to be killed")
forget_days(settings, "features")
print("ready", flush=True)
features.run(settings, spark, sys.argv[2])
print("done", flush=True)
"""


@pytest.mark.slow
@on_request  # the history of a killed step is tested in tests/jobs/history/test_killed_state.py
def test_a_step_killed_during_its_write_leaves_the_previous_version_and_can_run_again(
    tmp_path: Path, spark: SparkSession
) -> None:
    conf = small_logs.write(tmp_path, small_logs.frames())
    settings = load(conf)
    ingest.run(settings, spark, DS)
    features.run(settings, spark, DS)
    store = WarehouseTables(settings, spark)
    whole = store.read("features").toPandas().astype(str).sort_values("impression_id", ignore_index=True)
    folder = Path(store.warehouse.table("features"))
    kills = 0
    for delay in (0.0, 0.3):
        version, files = store.get_version("features"), {p.name for p in folder.rglob("*.parquet")}
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(conf), DS], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        while process.poll() is None and not ({p.name for p in folder.rglob("*.parquet")} - files):
            time.sleep(0.002)  # until the first file is written
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += store.get_version("features") == version
        now = store.read("features").toPandas().astype(str).sort_values("impression_id", ignore_index=True)
        pd.testing.assert_frame_equal(now, whole)
    assert kills, "each kill came after the commit"
    features.run(settings, spark, DS)
    now = store.read("features").toPandas().astype(str).sort_values("impression_id", ignore_index=True)
    pd.testing.assert_frame_equal(now, whole)
