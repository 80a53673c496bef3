"""Backfills in processes of their own: killed at random and run again, and two at once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.load import load
from star_ctr.conf.settings import Settings
from star_ctr.conf.tables import TABLES
from star_ctr.jobs.decisions import Decisions
from star_ctr.jobs.store import Store
from star_ctr.workflows import status
from tests import small_logs
from tests.conftest import KUAIRAND, kuairand, on_request

pytestmark = [pytest.mark.slow, on_request, pytest.mark.timeout(3 * 3600)]
KILLS = int(os.environ.get("STAR_CTR_KILLS", "2"))
TELL_THE_TIME = {"steps": None, "decisions": None, "runs": ["seconds", "record", "versions"]}
"""Tables, or columns of one, that no two runs have alike: times, and the number of commits that led there."""


class Nights(NamedTuple):
    """Nights of a configuration with its overrides."""

    conf: str
    overrides: tuple[str, ...]
    first: str
    last: str

    def settings(self) -> Settings:
        return load(self.conf, list(self.overrides))

    def backfill(self) -> subprocess.Popen[bytes]:
        """In a session of its own, so that all of it can be killed."""
        command = [sys.executable, "-m", "star_ctr.workflows.cli", "backfill", "--conf", self.conf]
        command += ["--from", self.first, "--to", self.last, *(w for o in self.overrides for w in ("--set", o))]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def small(folder: Path) -> Nights:
    conf = small_logs.write(folder, small_logs.frames())
    return Nights(str(conf), (), *small_logs.DAYS[2:])


def real(folder: Path) -> Nights:
    places = (f"paths.warehouse={folder}", f"paths.logs={KUAIRAND.absolute()}")
    return Nights("kuairand", places, "2022-05-01", "2022-05-05")


def contents(settings: Settings, spark: SparkSession) -> dict[str, tuple[int, str]]:
    """By table, its rows and the sum of their hashes."""
    store, found = Store(settings, spark), {}
    for name in TABLES:
        without = TELL_THE_TIME.get(name, [])
        if without is None or not store.exists(name):
            continue
        rows = store.read(name).drop(*without)
        hashed = F.xxhash64(*(F.col(f"`{c}`") for c in sorted(rows.columns))).cast("decimal(38, 0)")
        (row,) = rows.agg(F.count("*").alias("rows"), F.sum(hashed).alias("sum")).collect()
        found[name] = (row.rows, str(row.sum))
    return found


@pytest.mark.parametrize("logs", [small, pytest.param(real, marks=kuairand)])
def test_killed_backfills_come_to_the_same_tables(
    logs: Callable[[Path], Nights], tmp_path: Path, spark: SparkSession
) -> None:
    whole, killed = (logs(tmp_path / name) for name in ("whole", "killed"))
    began = time.monotonic()
    process = whole.backfill()
    said = process.communicate(timeout=3600)[1]
    assert process.returncode == 0, said.decode()
    took = time.monotonic() - began
    rng, kills = random.Random(0), 0
    for _ in range(KILLS):
        process = killed.backfill()
        try:
            # Together about as long as it took undisturbed, so that every kill falls into the work.
            process.communicate(timeout=rng.uniform(0.3, 1.5) * took / KILLS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            kills += 1
    assert kills == KILLS
    process = killed.backfill()
    time.sleep(min(20, 0.1 * took))
    second = killed.backfill()
    _, said = second.communicate(timeout=120)
    if process.poll() is None:
        assert second.returncode == 1
        assert f"process {process.pid}" in said.decode()
    said = process.communicate(timeout=3600)[1]
    assert process.returncode == 0, said.decode()
    states = status.run(killed.settings(), killed.first, killed.last, 14)
    assert {r["state"] for r in states} == {"done"}
    assert contents(killed.settings(), spark) == contents(whole.settings(), spark)
    decided = [[(d.run_id, d.outcome, d.reason) for d in Decisions(n.settings()).all()] for n in (whole, killed)]
    assert decided[0] == decided[1]
