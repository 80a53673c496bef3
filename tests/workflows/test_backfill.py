"""Backfills in processes of their own: killed at random and run again, and two at once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from pyspark.sql import SparkSession

from star_ctr.conf.load import load
from star_ctr.jobs.decisions import Decisions
from star_ctr.workflows import status
from tests import small_logs
from tests.conftest import on_request
from tests.workflows.small_night import contents

pytestmark = [pytest.mark.slow, on_request]
NIGHTS = small_logs.DAYS[2:]
JOURNALS = ("steps", "decisions")
"""They tell the time."""
KILLS = int(os.environ.get("STAR_CTR_KILLS", "2"))


def backfill(conf: Path) -> subprocess.Popen[bytes]:
    options = ["--conf", str(conf), "--from", NIGHTS[0], "--to", NIGHTS[-1]]
    command = [sys.executable, "-m", "star_ctr.workflows.cli", "backfill", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def test_killed_backfills_come_to_the_same_tables(tmp_path: Path, spark: SparkSession) -> None:
    logs = small_logs.frames()
    whole, killed = (small_logs.write(tmp_path / name, logs) for name in ("whole", "killed"))
    began = time.monotonic()
    process = backfill(whole)
    assert process.wait(timeout=900) == 0, process.communicate()[1].decode()
    took = time.monotonic() - began
    rng = random.Random(0)
    for _ in range(KILLS):
        process = backfill(killed)
        try:
            process.wait(timeout=rng.uniform(0.2, 0.9) * took)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    process = backfill(killed)
    time.sleep(0.2 * took)
    second = backfill(killed)
    _, said = second.communicate(timeout=120)
    if process.poll() is None:
        assert second.returncode == 1
        assert f"process {process.pid}" in said.decode()
    assert process.wait(timeout=900) == 0, process.communicate()[1].decode()
    settings = load(killed)
    states = status.run(settings, NIGHTS[0], NIGHTS[-1], 14)
    assert {r["state"] for r in states} == {"done"}
    expected, found = (contents(s, spark, JOURNALS) for s in (load(whole), settings))
    assert expected.keys() == found.keys()
    for name, rows in expected.items():
        pd.testing.assert_frame_equal(found[name], rows, obj=name)
    decided = [[(d.run_id, d.outcome, d.reason) for d in Decisions(s).all()] for s in (load(whole), settings)]
    assert decided[0] == decided[1]
