"""Backfills in separate processes: killed at random and run again, and two at once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.contracts.catalog import TABLES, WEIGHTS_FILE, Warehouse
from star_ctr.conf.contracts.dates import list_days
from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.registry.attempts import find_damaged_files, get_published_attempt
from star_ctr.jobs.registry.decisions import Decisions
from star_ctr.jobs.tools import simulate
from star_ctr.workflows import status
from star_ctr.workflows.journal import Journal
from tests import small_logs
from tests.conftest import INTERPRETED, KUAIRAND, LONG, kuairand, on_request
from tests.steps import EVERY_NIGHT

pytestmark = [pytest.mark.spark, pytest.mark.slow]
KILLS = int(os.environ.get("STAR_CTR_KILLS", "20"))
NOT_REPRODUCIBLE = {
    "steps": None,
    "lease": None,
    "decisions": None,
    "runs": ["seconds", "record", "versions"],
    "days": ["at", "inputs"],
}
"""Tables, or columns of a table, that differ between equal runs: they contain times or numbers of commits."""
PARTS_OF_INPUTS = r'"parts": \{[^}]*\}'
"""Pattern for the part of `outputs` in the table `days` that contains modification times, as `inputs` does."""
MARK = "STAR_CTR_TEST_GROUP"
"""Environment variable that marks the processes of a backfill."""

BACKFILL = """
import datetime as dt, os, socket, sys, time
host, skew = sys.argv[1], float(sys.argv[2])
if host:
    socket.gethostname = lambda: host
    from star_ctr.workflows import lease
    lease._identify_machine = lambda: host
    now = time.time
    time.time = lambda: now() + skew
from star_ctr.workflows.cli import main
sys.argv[1:] = sys.argv[3:]
main()
"""


class Nights(NamedTuple):
    """Nights of a configuration with its overrides."""

    conf: str
    overrides: tuple[str, ...]
    first: str
    last: str

    def settings(self) -> Settings:
        return load(self.conf, list(self.overrides))

    def backfill(
        self, number: int, host: str = "", home: Path | None = None, skew: float = 0.0
    ) -> subprocess.Popen[bytes]:
        """Start a backfill in a separate session, so that all its processes can be killed."""
        command = [sys.executable, "-c", BACKFILL, host, str(skew), "backfill", "--conf", self.conf]
        command += ["--from", self.first, "--to", self.last, *(w for o in self.overrides for w in ("--set", o))]
        environment = {**os.environ, MARK: str(number), **({"HOME": str(home)} if home else {})}
        return subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, env=environment
        )


def small(folder: Path, *overrides: str) -> Nights:
    conf = small_logs.write(folder, small_logs.frames(), small_logs.FEW_FEATURES)
    return Nights(str(conf), (*overrides, INTERPRETED), small_logs.DAYS[-1], small_logs.DAYS[-1])


def simulated(folder: Path) -> Nights:
    """Five nights of simulated logs, trained by two processes."""
    overrides = (
        f"paths.logs={folder}/logs", f"paths.warehouse={folder}/warehouse", "window.days=2", "trainer.processes=2",
        "trainer.checkpoint.minutes=0.02",
        "simulate={impressions: 20000, days: 7, users: 500, items: 300, seed: 3}",
        INTERPRETED,
    )  # fmt: skip
    return Nights("demo", overrides, "2026-01-06", "2026-01-10")


def real(folder: Path) -> Nights:
    paths = (f"paths.warehouse={folder}", f"paths.logs={KUAIRAND.absolute()}")
    return Nights("kuairand", paths, "2022-05-01", "2022-05-05")


def contents(settings: Settings, spark: SparkSession) -> dict[str, tuple[int, str]]:
    """Return the number of rows and the sum of their hashes for each table."""
    store, found = WarehouseTables(settings, spark), {}
    for name in TABLES:
        without = NOT_REPRODUCIBLE.get(name, [])
        if without is None or not store.exists(name):
            continue
        rows = store.read(name).drop(*without)
        if name == "days":
            rows = rows.withColumn("outputs", F.regexp_replace("outputs", PARTS_OF_INPUTS, ""))
        hashed = F.xxhash64(*(F.col(f"`{c}`") for c in sorted(rows.columns))).cast("decimal(38, 0)")
        (row,) = rows.agg(F.count("*").alias("rows"), F.sum(hashed).alias("sum")).collect()
        found[name] = (row.rows, str(row.sum))
    return found


def list_processes(group: int) -> set[int]:
    """Return the processes marked with a backfill, regardless of session and parent."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{MARK}={group}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                found |= {int(folder.name)} - {0 if state != "Z" else int(folder.name)}
    return found


def wait_for_exit(group: int, seconds: float = 20) -> bool:
    """Wait until all processes of a backfill have exited; return False after a timeout."""
    until = time.monotonic() + seconds
    while list_processes(group) and time.monotonic() < until:
        time.sleep(0.1)
    return not list_processes(group)


class KillTime(NamedTuple):
    """When to kill, in seconds after the start of a step, and which processes: all, a rank, or the first one (agent)."""

    step: str
    seconds: float
    kill: str = "all"


def ranks(group: int) -> list[int]:
    """Return the worker processes of a training run."""
    words = {pid: (Path(f"/proc/{pid}/cmdline").read_bytes()).split(b"\0") for pid in sorted(list_processes(group))}
    return [
        pid
        for pid, arguments in words.items()
        if b"star_ctr.model.train" in arguments and b"star_ctr.model.distributed.torchrun_agent" not in arguments
    ]


def kill_at(nights: Nights, number: int, kill_time: KillTime) -> tuple[bool, str]:
    """Run a backfill and kill it; return whether it was still running then, and its stderr."""
    process = nights.backfill(number)
    journal = Journal(nights.settings())
    first = len(journal.read_entries())
    while process.poll() is None:
        if any(e.step == kill_time.step and e.state == "running" for e in journal.read_entries()[first:]):
            time.sleep(kill_time.seconds)
            break
        time.sleep(0.02)
    killed = process.poll() is None
    if killed and kill_time.kill == "rank" and (found := ranks(number)):
        os.kill(found[-1], signal.SIGKILL)
        time.sleep(3.0)  # the group is restarted, and then killed as a whole
    if killed and kill_time.kill == "agent":
        os.kill(process.pid, signal.SIGKILL)  # the first process only; the others must notice
    elif killed:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    stderr = process.communicate()[1].decode()
    return killed, stderr


def pending_steps(nights: Nights) -> list[str]:
    """Return the steps that are not done, in the order in which a backfill runs them."""
    entries = {(e.ds, e.step): e.state for e in Journal(nights.settings()).read_entries()}
    days = list_days(nights.first, nights.last)
    return [step for ds in days for step in EVERY_NIGHT if entries.get((ds, step)) != "done"]


def run_to_completion(nights: Nights, number: int = 0) -> None:
    process = nights.backfill(number)
    stderr = process.communicate(timeout=3600)[1].decode()
    assert process.returncode == 0, stderr
    assert wait_for_exit(number)
    assert {r["state"] for r in status.run(nights.settings(), nights.first, nights.last, 14)} == {"done"}


def weights(settings: Settings) -> dict[str, str]:
    """Return the hash of the weights of the newest attempt of each run."""
    warehouse = Warehouse(settings.paths)
    newest = {run: get_published_attempt(warehouse, run) for run in warehouse.list_finished_runs()}
    assert all(find_damaged_files(attempt) == [] for attempt in newest.values())
    return {run: attempt.record()["files"][WEIGHTS_FILE] for run, attempt in newest.items()}


def assert_same_results(killed: Nights, whole: Nights, spark: SparkSession) -> None:
    """Assert that two backfills ended with the same tables, weights and decisions."""
    assert contents(killed.settings(), spark) == contents(whole.settings(), spark)
    assert weights(killed.settings()) == weights(whole.settings())
    decided = [
        [
            (d.model, d.reference_run_id, d.reference_attempt, d.outcome, d.reason)
            for d in Decisions(n.settings()).read_all()
        ]
        for n in (whole, killed)
    ]
    assert decided[0] == decided[1]


KILL_TIMES = (KillTime("train", 5.0, "agent"), *([KillTime("gate", 0.1)] if LONG else []))
"""During training, where only the first process is killed; with STAR_CTR_LONG=1, also during the gate."""


class Race(NamedTuple):
    """A night that two hosts started at the same time, with the stderr and exit code of each."""

    nights: Nights
    ended: list[tuple[str, int]]


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> Race:
    folder = tmp_path_factory.mktemp("raced")
    nights = small(folder / "nights", "trainer.processes=2")
    processes = []
    for k in (1, 2):
        home = folder / f"home-{k}"
        home.mkdir()
        processes.append(nights.backfill(k, host=f"host-{k}", home=home, skew=90 * k))
    return Race(nights, [(p.communicate(timeout=900)[1].decode(), p.returncode) for p in processes])


def test_two_hosts_cannot_run_the_same_night(raced: Race) -> None:
    """One host runs it, and the other fails and names the first. They differ in home folder, name and clock."""
    assert sorted(code for _, code in raced.ended) == [0, 1], raced.ended
    rejected = next(stderr for stderr, code in raced.ended if code == 1)
    assert " is writing to it; wait until it is done, or pass --wait" in rejected
    assert "on host-" in rejected
    nights = raced.nights
    assert {r["state"] for r in status.run(nights.settings(), nights.first, nights.last, 14)} == {"done"}


def test_a_killed_backfill_ends_with_the_same_tables_and_weights(
    raced: Race, tmp_path: Path, spark: SparkSession
) -> None:
    killed = small(tmp_path / "killed", "trainer.processes=2")
    kills = 0
    for number, kill_time in enumerate(KILL_TIMES, start=1):
        was_killed, stderr = kill_at(killed, number, kill_time)
        assert wait_for_exit(number), f"orphaned processes after {kill_time}"
        assert "Traceback" not in stderr, stderr
        kills += was_killed
    assert kills == len(KILL_TIMES)
    run_to_completion(killed)
    assert_same_results(killed, raced.nights, spark)


@on_request
@pytest.mark.timeout(3 * 3600)
def test_five_nights_killed_twenty_times_end_with_the_same_tables_and_weights(
    tmp_path: Path, spark: SparkSession
) -> None:
    whole, killed = (simulated(tmp_path / name) for name in ("whole", "killed"))
    for nights in (whole, killed):
        simulate.run(nights.settings(), spark)
    run_to_completion(whole)
    rng = random.Random(0)
    for number in range(1, KILLS + 1):
        # One of the next two steps, so that the nights last for all kills.
        step = rng.choice(pending_steps(killed)[:2])
        kill_time = KillTime(step, rng.uniform(0.0, 8.0), rng.choice(("all", "all", "rank", "agent")))
        was_killed, stderr = kill_at(killed, number, kill_time)
        assert wait_for_exit(number), f"orphaned processes after {kill_time}"
        assert "Traceback" not in stderr, stderr
        assert was_killed, f"the nights were finished after {number - 1} kills"
    run_to_completion(killed)
    assert_same_results(killed, whole, spark)


@on_request
@kuairand
@pytest.mark.timeout(3 * 3600)
def test_killed_backfills_of_real_logs_end_with_the_same_tables(tmp_path: Path, spark: SparkSession) -> None:
    whole, killed = (real(tmp_path / name) for name in ("whole", "killed"))
    run_to_completion(whole)
    rng = random.Random(0)
    for number in range(1, 6):
        step = rng.choice(("ingest", "features", "split", "train", "score", "evaluate", "gate"))
        kill_at(killed, number, KillTime(step, rng.uniform(0.0, 10.0)))
        assert wait_for_exit(number)
    run_to_completion(killed)
    assert_same_results(killed, whole, spark)
