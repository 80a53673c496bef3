"""Replay: train and score a recorded run again from the versions that it is pinned to, and compare bit by bit.

Nothing of the warehouse changes: the replay trains into a folder of its own, and its scores are judged in memory.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.errors import UserError
from star_ctr.conf.hashing import code_hash
from star_ctr.conf.identity import judged_run
from star_ctr.conf.settings import Settings
from star_ctr.conf.tables import WEIGHTS
from star_ctr.features.metrics import METRICS, by_domain
from star_ctr.jobs.evaluate import NO_INTERVALS, read_metrics
from star_ctr.jobs.launcher import launch_on_spark
from star_ctr.jobs.score import scored
from star_ctr.jobs.score_checks import check_scores
from star_ctr.jobs.store import Store
from star_ctr.jobs.train import read_record
from star_ctr.model.job import TrainingJob
from star_ctr.model.train import launch


def run(settings: Settings, spark: SparkSession, run_id: str) -> dict[str, Any]:
    """Train and score `run_id` again; returns whether weights and metrics are the same, and what differs."""
    store = Store(settings, spark)
    recorded = Path(store.warehouse.model(run_id))
    job, record = recorded_job(recorded), read_record(recorded)
    if not (recorded / WEIGHTS).exists():
        raise UserError(f"{recorded}: lacks {WEIGHTS}; the run was not exported, there is nothing to compare with")
    # The number of threads decides the order of sums: the recorded one, whatever this machine has.
    trainer = job.trainer.model_copy(update={"threads": record["threads"], "processes": record["processes"]})
    place = Path(store.warehouse.root) / "replays" / run_id
    shutil.rmtree(place, ignore_errors=True)
    code = code_hash(["star_ctr.model.train"])
    again = job.model_copy(update={"folder": str(place), "trainer": trainer, "code": code})
    (launch if trainer.launcher == "torchrun" else launch_on_spark)(again, False)
    weights = [_digest(folder / WEIGHTS) for folder in (recorded, place)]
    return {
        "run_id": run_id,
        "weights": "the same bits" if weights[0] == weights[1] else f"differ: {weights[0]} then, {weights[1]} now",
        "metrics": _metrics_again(store, job, place),
        "code": "the same" if code == job.code else f"changed since: {job.code} then, {code} now",
        "folder": str(place),
    }


def _metrics_again(store: Store, job: TrainingJob, place: Path) -> str:
    """How the metrics of a model trained again are beside the recorded ones."""
    if judged_run(job.run_id) != job.run_id:
        return "none: a refit has no day left to be judged on"
    split = store.read("split", job.versions["split"])
    test = split.where((F.col("ds") == job.ds) & (F.col("part") == "test"))
    scores = scored(test, place, job.run_id)
    check_scores(scores, str(place))
    now = {r.domain: r.asDict() for r in by_domain(scores, NO_INTERVALS).collect()}
    then = {r["domain"]: r for r in read_metrics(store, [job.run_id])}
    if not then:
        where = store.warehouse.table("metrics")
        raise UserError(f"{where}: no metrics of {job.run_id}; run `star-ctr evaluate` first")
    differing = sorted(d for d in {*now, *then} if _judged(now.get(d)) != _judged(then.get(d)))
    return "the same" if not differing else f"differ in {', '.join(differing)}"


def recorded_job(folder: Path) -> TrainingJob:
    """The job of a run, as it was pinned."""
    path = folder / "job.json"
    if not path.exists():
        there = sorted(p.parent.name for p in folder.parent.glob("*/job.json"))
        raise UserError(f"--run-id {folder.name}: no such run; the newest are {', '.join(there[-5:]) or 'none'}")
    return TrainingJob.model_validate_json(path.read_text(encoding="utf-8"))


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:16]


def _judged(row: dict[str, Any] | None) -> list[Any] | None:
    return None if row is None else [row[name] for name in METRICS]
