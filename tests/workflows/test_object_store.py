"""Logs, warehouse and models in an object store: a night that is killed and run again equals a night on local files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pandas as pd
import pytest
import yaml
from pyspark.sql import SparkSession

import star_ctr
from star_ctr.jobs.io.delta_rows import read_rows
from tests.conftest import INTERPRETED
from tests.workflows.small_night import DS, Night

pytestmark = [pytest.mark.spark, pytest.mark.slow]
HADOOP_AWS = "org.apache.hadoop:hadoop-aws:3.4.1"


def write_conf(night: Night, bucket: str, folder: Path) -> Path:
    """Copy the logs of a night to a bucket, and write the settings of docs/cluster.md for it."""
    fsspec.filesystem("s3").put(str(night.conf.parent / "logs"), f"{bucket}/logs", recursive=True)
    conf = yaml.safe_load(night.conf.read_text())
    url = bucket.replace("s3://", "s3a://")
    conf["paths"] = {"logs": f"{url}/logs", "warehouse": f"{url}/ctr"}
    conf["spark"]["conf"] = {
        "spark.jars.packages": HADOOP_AWS,
        "spark.local.dir": str(folder / "spark"),  # each session copies 600 MB of packages; the killed one leaves them
        "spark.hadoop.fs.s3a.endpoint": os.environ["AWS_ENDPOINT_URL"],
        "spark.hadoop.fs.s3a.endpoint.region": os.environ["AWS_REGION"],
        "spark.hadoop.fs.s3a.path.style.access": "true",
        **yaml.safe_load(INTERPRETED.removeprefix("spark.conf=")),
    }
    (folder / "bucket.yaml").write_text(yaml.safe_dump(conf, sort_keys=False))
    return folder / "bucket.yaml"


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "star_ctr.workflows.cli", *words, "--conf", str(folder / "bucket.yaml")],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def run(folder: Path, *words: str) -> str:
    process = start(folder, *words)
    out, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    return out


def test_a_night_in_a_bucket(bucket: str, spark: SparkSession, tmp_path: Path) -> None:
    night = Night(tmp_path, spark)
    conf = write_conf(night, bucket, tmp_path)
    assert json.loads(run(tmp_path, "ready", "--ds", DS, "--json", "-"))[0]["files"] == 1

    killed = start(tmp_path, "backfill", "--from", DS, "--to", DS)
    until = time.monotonic() + 600
    while not any(row["step"] == "split" for row in read_rows(f"{bucket}/ctr/steps", columns=["step"])):
        assert killed.poll() is None, killed.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.5)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    run(tmp_path, "backfill", "--from", DS, "--to", DS)

    states = json.loads(run(tmp_path, "status", "--json", "-"))
    assert {row["step"]: row["state"] for row in states if row["ds"] == DS} == dict.fromkeys(
        ["ingest", "features", "split", "train", "score", "evaluate", "gate"], "done"
    )
    ours, local = star_ctr.open(str(conf)), star_ctr.open(str(night.conf))
    for name in ("impressions", "features", "split", "vocabularies", "scores", "metrics", "quarantine"):
        found, expected = (project.table(name).to_pandas().map(repr) for project in (ours, local))
        columns = sorted(found.columns)
        pd.testing.assert_frame_equal(
            *(rows[columns].sort_values(columns, ignore_index=True) for rows in (found, expected)), obj=name
        )
    weights = [project.runs.newest.load_model().folder / "model.safetensors" for project in (ours, local)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    with fsspec.open(f"{bucket}/ctr/models/{ours.runs.newest.run_id}/attempt-001/record.json") as file:
        assert json.load(file)["run_id"] == local.runs.newest.run_id

    run(tmp_path, "promote", "--run-id", ours.runs.newest.run_id, "--reason", "tested")
    with fsspec.open(f"{bucket}/ctr/serving.json") as file:
        assert json.load(file)["model"] == str(weights[0].parent)
    assert json.loads(run(tmp_path, "verify", "--json", "-"))[0]["files"] > 0
    run(tmp_path, "report", "--out", "page.html")
    assert "<html" in (tmp_path / "page.html").read_text()
