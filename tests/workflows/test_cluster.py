"""A night on a Spark cluster: a standalone master and two workers on loopback, which receive the code as a package."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyspark
import pytest
from deltalake import DeltaTable
from sklearn.metrics import log_loss, roc_auc_score

from star_ctr.jobs.io.session import DELTA_PACKAGE
from tests import small_logs
from tests.conftest import ROOT, on_request

pytestmark = [pytest.mark.spark, pytest.mark.slow]
DS = small_logs.DAYS[-1]
HOME = Path(pyspark.__file__).parent


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Cluster:
    """A Spark master and two workers with one core each, without access to this clone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.web = free_port(), free_port()
        self.url = f"spark://127.0.0.1:{self.port}"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.package = folder / "star_ctr.zip"
        uv = str(Path(sys.executable).parent / "uv")
        subprocess.run(
            [uv, "build", "--wheel", "--no-build-isolation", "--python", sys.executable, "-q", "-o", folder, ROOT],
            check=True,
        )
        next(folder.glob("*.whl")).rename(self.package)
        (folder / "events").mkdir()

    def start(self) -> None:
        self._class("master.Master", "--host", "127.0.0.1", "--port", str(self.port), "--webui-port", str(self.web))
        self._wait(lambda: self._compute_state() is not None)
        for number in (1, 2):
            self._class(
                "worker.Worker", self.url, "--host", "127.0.0.1", "--webui-port", str(free_port()),
                "--cores", "1", "--memory", "1g", "--work-dir", str(self.folder / f"work-{number}"),
            )  # fmt: skip
        self._wait(lambda: (self._compute_state() or {}).get("aliveworkers") == 2)

    def _class(self, name: str, *arguments: str) -> None:
        clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("SPARK_")}
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes.append(
                subprocess.Popen(
                    [HOME / "bin/spark-class", f"org.apache.spark.deploy.{name}", *arguments],
                    env={**clean, "SPARK_HOME": str(HOME), "SPARK_DAEMON_MEMORY": "256m"},
                    cwd=self.folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                )
            )  # fmt: skip

    def _compute_state(self) -> dict[str, Any] | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.web}/json/", timeout=5) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except OSError:
            return None

    def _wait(self, is_ready: Any, seconds: float = 90) -> None:
        until = time.monotonic() + seconds
        while not is_ready():
            assert time.monotonic() < until, f"no cluster; logs in {self.folder}"
            assert all(p.poll() is None for p in self.processes), f"a process ended; logs in {self.folder}"
            time.sleep(0.5)

    def stop(self) -> None:
        for process in reversed(self.processes):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)

    def options(self, name: str) -> dict[str, str]:
        """Return the settings of docs/cluster.md, with a separate folder for the event log of each application."""
        events = self.folder / "events" / name
        events.mkdir(exist_ok=True)
        return {
            "spark.submit.pyFiles": str(self.package),
            "spark.driver.host": "127.0.0.1",
            "spark.executor.memory": "1g",
            # These are short JVMs, so optimizing compilation is not worth its time.
            "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1",
            "spark.executor.extraJavaOptions": "-XX:TieredStopAtLevel=1",
            "spark.eventLog.enabled": "true",
            "spark.eventLog.compress": "false",
            "spark.eventLog.dir": f"file://{events}",
        }

    def events(self, name: str) -> list[dict[str, Any]]:
        files = [
            f
            for f in (self.folder / "events" / name).rglob("*")
            if f.is_file() and f.name.startswith(("events_", "app-"))
        ]
        return [json.loads(line) for f in files if f.stat().st_size for line in f.read_text().splitlines()]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    found = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        found.start()
        yield found
    finally:
        found.stop()


def environment(cluster: Cluster) -> dict[str, str]:
    return {**os.environ, "PYSPARK_PYTHON": sys.executable, "STAR_CTR_SPARK_LOG": str(cluster.folder / "driver.log")}


def ran_on_executors(events: list[dict[str, Any]]) -> bool:
    ends = [e for e in events if e["Event"] == "SparkListenerTaskEnd"]
    return bool(ends) and all(e["Task Info"]["Executor ID"] != "driver" for e in ends)


_WHERE = """
import sys
from pyspark.sql import SparkSession
def where(_):
    import star_ctr.jobs.score
    return star_ctr.jobs.score.__file__
spark = SparkSession.builder.getOrCreate()
print("WHERE", spark.sparkContext.parallelize([0], 1).map(where).first())
"""


DELTA = [
    "--packages", DELTA_PACKAGE,
    "--conf", "spark.sql.extensions=io.delta.sql.DeltaSparkSessionExtension",
    "--conf", "spark.sql.catalog.spark_catalog=org.apache.spark.sql.delta.catalog.DeltaCatalog",
]  # fmt: skip


def submit(cluster: Cluster, name: str, *words: str) -> str:
    options = [
        w for k, v in cluster.options(name).items() if k != "spark.submit.pyFiles" for w in ("--conf", f"{k}={v}")
    ]
    done = subprocess.run(
        [HOME / "bin/spark-submit", "--master", cluster.url, "--py-files", cluster.package, *options, *words],
        env={**environment(cluster), "SPARK_HOME": str(HOME)}, cwd=cluster.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_executors_import_the_submitted_code(cluster: Cluster) -> None:
    (cluster.folder / "where.py").write_text(_WHERE)
    found = submit(cluster, "where", str(cluster.folder / "where.py")).split("WHERE ")[1]
    assert "/star_ctr.zip/star_ctr/jobs/score.py" in found


def list_executors(events: list[dict[str, Any]]) -> set[str]:
    return {e["Task Info"]["Executor ID"] for e in events if e["Event"] == "SparkListenerTaskEnd"}


@pytest.fixture(scope="module")
def night(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a night on the cluster, and return its folder."""
    folder = tmp_path_factory.mktemp("night")
    conf = small_logs.write(folder, small_logs.frames())
    subprocess.run(
        [
            sys.executable, "-m", "star_ctr.workflows.cli", "nightly", "--conf", conf, "--ds", DS,
            "--set", f"spark.master={cluster.url}", "--set", f"spark.conf={json.dumps(cluster.options('night'))}",
            "--set", "trainer.processes=2", "--set", "trainer.distributed.launcher=spark",
        ],
        env=environment(cluster), check=True,
    )  # fmt: skip
    return folder


def test_a_night_on_a_cluster_writes_the_metrics_of_its_scores(cluster: Cluster, night: Path) -> None:
    """All steps run on two workers, and training runs as two tasks of the cluster, one on each worker."""
    assert ran_on_executors(cluster.events("night"))
    assert len(list_executors(cluster.events("night"))) == 2
    [result] = (night / "warehouse/models").glob("*/attempt-001/result.json")
    record = json.loads(result.read_text())
    assert (record["processes"], record["environments"][0]["processes"]) == (2, 2)
    found = metrics(night)
    scores = small_logs.read(night / "warehouse/scores")
    assert found["rows"] == len(scores) == 300
    assert found["auc"] == pytest.approx(roc_auc_score(scores["label"], scores["score"]), abs=1e-9)
    assert found["log_loss"] == pytest.approx(log_loss(scores["label"], scores["score"]), abs=1e-9)


@on_request
def test_a_submitted_step_writes_the_same_rows(cluster: Cluster, night: Path) -> None:
    """A step under spark-submit writes the rows of the night, with tasks on the executors."""
    table = night / "warehouse/split"
    before = small_logs.read(table).sort_values("impression_id", ignore_index=True).map(repr)
    version = DeltaTable(str(table)).version()
    submit(cluster, "split", *DELTA, str(ROOT / "jobs/split.py"), "--conf", str(night / "shop.yaml"), "--ds", DS)
    assert ran_on_executors(cluster.events("split"))
    assert DeltaTable(str(table)).version() > version
    after = small_logs.read(table).sort_values("impression_id", ignore_index=True).map(repr)
    pd.testing.assert_frame_equal(before, after[before.columns])


def metrics(folder: Path) -> dict[str, Any]:
    rows = small_logs.read(folder / "warehouse/metrics")
    (overall,) = rows[rows["domain"] == "overall"].to_dict("records")
    return {str(key): value for key, value in overall.items()}
