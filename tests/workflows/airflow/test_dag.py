"""The DAG as Airflow parses it, and nights under a real scheduler."""

from __future__ import annotations

import ast
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from star_ctr.conf.contracts.pipeline import STEP_NAMES
from star_ctr.workflows.airflow.local import LocalAirflow
from star_ctr.workflows.cli.logs import EXIT_NOT_READY
from tests import small_logs
from tests.conftest import INTERPRETED, ROOT, on_request

VENV = ROOT / ".airflow/venv"
FILE = ROOT / "workflows/airflow/dags/star_nightly.py"
TASKS = ["wait_for_logs", *STEP_NAMES]
COMMANDS = ["ready", *STEP_NAMES]

airflow = pytest.mark.skipif(
    not (VENV / "bin/airflow").exists(), reason="needs Airflow in a separate environment: make airflow-env"
)

_READ = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
dags = [{
    "id": dag.dag_id, "docs": dag.doc_md, "active": dag.max_active_runs, "catchup": dag.catchup,
    "start": str(dag.start_date), "end": str(dag.end_date),
    "tasks": {task.task_id: {
        "retries": task.retries, "docs": task.doc_md, "owner": task.owner, "backoff": task.retry_exponential_backoff,
        "timeout": task.execution_timeout and task.execution_timeout.total_seconds(), "mode": getattr(task, "mode", None),
        "after": sorted(task.upstream_task_ids), "notifies": bool(task.on_failure_callback),
        "again": getattr(task, "retry_exit_code", None),
    } for task in dag.tasks},
} for dag in bag.dags.values()]
print("READ" + json.dumps({"errors": bag.import_errors, "dags": dags}))
"""


def read(home: Path, environment: Mapping[str, str] | None = None) -> Any:
    """Parse the folder of DAGs with the Python of Airflow."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("STAR_CTR_")}
    done = subprocess.run(
        [VENV / "bin/python", "-c", _READ, FILE.parent],
        env={**clean, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", **(environment or {})},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("READ"))[4:])


@airflow
def test_every_task_has_the_required_settings(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert found["errors"] == {}
    (dag,) = found["dags"]
    assert (dag["id"], dag["active"], dag["catchup"]) == ("star_nightly", 1, True)
    assert "one task per step" in dag["docs"]
    assert (dag["start"], dag["end"]) == ("2026-01-07 00:00:00+00:00", "None")
    assert list(dag["tasks"]) == TASKS
    for before, (name, task) in zip([None, *TASKS], dag["tasks"].items(), strict=False):
        assert task["after"] == ([before] if before else []), name
        assert task["retries"] == 3, name
        assert task["backoff"] == 2.0, name
        assert task["timeout"] > 0, name
        assert len(task["docs"]) > 40, name
        assert task["owner"] == "star-ctr", name
        assert task["notifies"], name
    assert (dag["tasks"]["wait_for_logs"]["mode"], dag["tasks"]["wait_for_logs"]["again"]) == (
        "reschedule",
        EXIT_NOT_READY,
    )


@airflow
def test_dates_come_from_the_environment(tmp_path: Path) -> None:
    zone = {"STAR_CTR_FIRST_NIGHT": "2026-03-01", "STAR_CTR_LAST_NIGHT": "2026-03-04", "STAR_CTR_ZONE": "Asia/Shanghai"}
    (dag,) = read(tmp_path, zone)["dags"]
    assert (dag["start"], dag["end"]) == ("2026-03-01 16:00:00+00:00", "2026-03-05 15:59:59.999999+00:00")


def test_the_dag_imports_only_airflow() -> None:
    names = set()
    for node in ast.walk(ast.parse(FILE.read_text())):
        names |= {a.name for a in node.names} if isinstance(node, ast.Import) else set()
        names |= {str(node.module)} if isinstance(node, ast.ImportFrom) else set()
    assert {n.split(".")[0] for n in names} - set(sys.stdlib_module_names) == {"airflow"}


class Nights:
    """Airflow with a temporary home, whose DAG calls `stand_in.py`."""

    def __init__(self, folder: Path, served: LocalAirflow) -> None:
        self.folder, self.served = folder, served

    def call(self, path: str, method: str = "GET", body: Mapping[str, Any] | None = None) -> Any:
        """Call the API, and repeat the call while SQLite is locked or the DAG is not parsed yet."""
        for _ in range(30):
            try:
                return self.served.call(path, method, body)
            except urllib.error.HTTPError as error:
                if error.code not in (404, 500):
                    raise
            time.sleep(1)
        raise AssertionError(f"no answer to {method} {path}")

    def runs(self) -> dict[str, Any]:
        return {r["dag_run_id"]: r for r in self.call("dags/star_nightly/dagRuns?order_by=id")["dag_runs"]}

    def wait(self, number: int, seconds: float = 240) -> dict[str, str]:
        """Wait until there are `number` runs and all have ended, and return their states."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            states = {name: r["state"] for name, r in self.runs().items()}
            if len(states) >= number and set(states.values()) <= {"success", "failed"}:
                return states
            assert self.served.find_ended() is None
            time.sleep(1)
        raise AssertionError(f"{states} after {seconds} s; logs in {self.served.home}")

    def tasks(self, run: str) -> dict[str, tuple[str, int]]:
        """Return the state and the number of tries of each task."""
        found = self.call(f"dags/star_nightly/dagRuns/{run}/taskInstances")["task_instances"]
        assert len(found) == len(TASKS)
        return {t["task_id"]: (t["state"], t["try_number"]) for t in found}

    def calls(self, day: str) -> list[list[str]]:
        lines = [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]
        return [line for line in lines if line[4] == day]

    def trigger(self, **params: Any) -> str:
        body = {"logical_date": None, "conf": params}
        run: str = self.call("dags/star_nightly/dagRuns", "POST", body)["dag_run_id"]
        return run


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nights]:
    folder = tmp_path_factory.mktemp("airflow")
    shutil.copy(Path(__file__).with_name("stand_in.py"), folder)
    command = folder / "star-ctr"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {folder}/stand_in.py "$@"\n')
    command.chmod(0o755)
    notify = folder / "notify"
    notify.write_text(f'#!/bin/sh\nprintf "%s|" "$@" >> {folder}/notifications\n')
    notify.chmod(0o755)
    fails = {
        "ready 2026-01-07": [EXIT_NOT_READY, 0],
        "train 2026-01-07": [1, 0],
        "features 2026-02-01": [2],
        "ready 2026-02-02": [1],
    }
    (folder / "fails").write_text(json.dumps(fails))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "REAL_PYTHON": sys.executable,
        "STAR_CTR_HOME": str(folder),
        "STAR_CTR_COMMAND": str(command),
        "STAR_CTR_CONF": "conf/demo.yaml",
        "STAR_CTR_ZONE": "UTC",
        "STAR_CTR_SCHEDULE": "0 2 * * *",
        "STAR_CTR_FIRST_NIGHT": "2026-01-06",
        "STAR_CTR_LAST_NIGHT": "2026-01-08",
        "STAR_CTR_RETRY_SECONDS": "1",
        # If it is much shorter, Airflow may queue a poke before it records the end of the last one, which fails the task.
        "STAR_CTR_POKE_SECONDS": "10",
        "STAR_CTR_ON_FAILURE": f"{notify} 'to whom'",
    }
    with LocalAirflow(VENV, folder / "home", port, environment) as served:
        found = Nights(folder, served)
        found.call("dags/star_nightly", "PATCH", {"is_paused": False})
        yield found


@airflow
@pytest.mark.slow
def test_three_missed_nights_are_caught_up_in_order(nights: Nights) -> None:
    states = nights.wait(3)
    assert list(states) == [f"scheduled__2026-01-0{d}T02:00:00+00:00" for d in (7, 8, 9)]
    assert set(states.values()) == {"success"}
    expected = []
    for day, run in zip(("2026-01-06", "2026-01-07", "2026-01-08"), states, strict=True):
        retried = day == "2026-01-07"
        tasks = nights.tasks(run)
        assert tasks == {name: ("success", 2 if retried and name == "train" else 1) for name in TASKS}
        for step in COMMANDS:
            times = 2 if retried and step in ("ready", "train") else 1
            expected += [[step, "--conf", "conf/demo.yaml", "--ds", day]] * times
    # The file contains the calls in order, so the nights ran one after the other.
    assert [json.loads(line) for line in (nights.folder / "calls").read_text().splitlines()] == expected
    assert not (nights.folder / "notifications").exists()


@airflow
@pytest.mark.slow
def test_a_failed_night_is_reported_once(nights: Nights) -> None:
    overrides = ["trainer.seed=1", "about=it's $HOME; echo `date`"]
    number = len(nights.runs())
    run = nights.trigger(conf="my demo.yaml", set=overrides, day="2026-02-01")
    assert nights.wait(number + 1)[run] == "failed"
    rest = dict.fromkeys(TASKS[3:], ("upstream_failed", 0))
    assert (
        nights.tasks(run)
        == {"wait_for_logs": ("success", 1), "ingest": ("success", 1), "features": ("failed", 4)} | rest
    )
    words = ["--conf", "my demo.yaml", "--ds", "2026-02-01", "--set", overrides[0], "--set", overrides[1]]
    assert nights.calls("2026-02-01") == [[step, *words] for step in ("ready", "ingest", *["features"] * 4)]
    (line,) = (nights.served.home / "failures.log").read_text().splitlines()
    assert "star_nightly: features of the night 2026-02-01 failed on try 4" in line
    assert "exit code 2" in line
    assert (nights.folder / "notifications").read_text() == f"to whom|{line}|"


@airflow
@pytest.mark.slow
def test_an_error_of_ready_fails_without_retries(nights: Nights) -> None:
    number = len(nights.runs())
    run = nights.trigger(day="2026-02-02")
    assert nights.wait(number + 1)[run] == "failed"
    assert nights.tasks(run)["wait_for_logs"] == ("failed", 1)
    assert len(nights.calls("2026-02-02")) == 1


@airflow
@pytest.mark.slow
def test_a_backfill_runs_a_night_again(nights: Nights) -> None:
    nights.wait(3)
    before = len(nights.calls("2026-01-08"))
    dates = ["--from-date", "2026-01-09T00:00", "--to-date", "2026-01-09T23:59"]
    nights.served.run("backfill", "create", "--dag-id", "star_nightly", *dates, "--reprocess-behavior", "completed")
    time.sleep(2)
    nights.wait(3)
    run = "scheduled__2026-01-09T02:00:00+00:00"
    assert nights.runs()[run]["run_type"] == "backfill"
    # Tries of both runs are counted.
    assert nights.tasks(run) == dict.fromkeys(TASKS, ("success", 2))
    assert [c[0] for c in nights.calls("2026-01-08")[before:]] == COMMANDS


@airflow
@pytest.mark.slow
@pytest.mark.spark
@on_request
def test_a_night_of_the_real_commands_ends_in_metrics(nights: Nights, tmp_path: Path) -> None:
    conf = small_logs.write(tmp_path, small_logs.frames(), small_logs.FEW_FEATURES)
    day = small_logs.DAYS[-1]
    number = len(nights.runs())
    # The commands inherit the JVM options of the tests.
    run = nights.trigger(conf=str(conf), set=["spark.driver_memory=1g", INTERPRETED], day=day)
    assert nights.wait(number + 1, seconds=600)[run] == "success"
    assert set(nights.tasks(run).values()) == {("success", 1)}
    metrics = small_logs.read(tmp_path / "warehouse/metrics")
    overall = metrics[metrics["domain"] == "overall"]
    assert list(overall["ds"]) == [day]
    assert list(overall["rows"]) == [300]
