"""Replay: train and score a recorded run again from the versions that it is pinned to, and compare bit by bit.

Nothing of the warehouse changes: the replay trains into a folder of its own, and its scores are judged in memory.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.contracts.catalog import WEIGHTS
from star_ctr.conf.contracts.fingerprint import hash_code
from star_ctr.conf.contracts.run_id import strip_refit_suffix
from star_ctr.conf.errors import UserError
from star_ctr.conf.files import hash_file
from star_ctr.conf.settings.root import Settings
from star_ctr.features.evaluation.metrics import METRICS, compute_metrics
from star_ctr.jobs.evaluate import NO_INTERVALS, read_metrics
from star_ctr.jobs.io.spark_launcher import launch_on_spark
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.quality.score_checks import check_scores
from star_ctr.jobs.registry.attempts import Attempt, check_files, get_attempt, get_published_attempt, read_job
from star_ctr.jobs.score import score_rows
from star_ctr.model.train import launch
from star_ctr.model.training.job import TrainingJob


def run(settings: Settings, spark: SparkSession, run_id: str, number: int | None = None) -> dict[str, Any]:
    """Train and score an attempt of `run_id` again; returns whether weights and metrics are identical.

    Raises:
        UserError: There is no such attempt, or it cannot be reproduced because it was resumed with a different number
            of processes or threads.
    """
    store = WarehouseTables(settings, spark)
    attempt = check_files(get_published_attempt(store.warehouse, run_id, number))
    job, record = read_job(attempt), attempt.record()
    if not record["reproducible"]:
        sizes = ", ".join(f"{w['processes']} processes of {w['threads']} threads" for w in record["worlds"])
        raise UserError(
            f"{attempt}: cannot be replayed, because the training was resumed with a different number of processes or "
            f"threads ({sizes}), which changes the weights. Replay another attempt with --attempt"
        )
    # The number of threads decides the order of sums: the recorded one, whatever this machine has.
    trainer = job.trainer.model_copy(update={"threads": record["threads"], "processes": record["processes"]})
    place = Path(store.warehouse.root) / "replays" / run_id / attempt.folder.name
    shutil.rmtree(place, ignore_errors=True)
    code = hash_code(["star_ctr.model.train"])
    again = job.model_copy(update={"folder": str(place), "trainer": trainer, "code": code})
    (launch if trainer.distributed.launcher == "torchrun" else launch_on_spark)(again, False)
    weights = [hash_file(folder / WEIGHTS)[:16] for folder in (attempt.folder, place)]
    return {
        "run_id": run_id,
        "attempt": attempt.number,
        "weights": "the same bits" if weights[0] == weights[1] else f"differ: {weights[0]} then, {weights[1]} now",
        "metrics": _compare_metrics(store, again, attempt),
        "code": "the same" if code == job.code else f"changed since: {job.code} then, {code} now",
        "folder": str(place),
    }


def _compare_metrics(store: WarehouseTables, job: TrainingJob, recorded: Attempt) -> str:
    """Compare the metrics of a replayed model with the recorded ones, and describe the result."""
    if strip_refit_suffix(job.run_id) != job.run_id:
        return "none: a refit has no day left to be judged on"
    split = store.read("split", job.versions["split"])
    test = split.where((F.col("ds") == job.ds) & (F.col("part") == "test"))
    scores = score_rows(test, get_attempt(job))
    check_scores(scores, str(job.path))
    now = {r.domain: r.asDict() for r in compute_metrics(scores, NO_INTERVALS).collect()}
    then = {r["domain"]: r for r in read_metrics(store, [job.run_id]) if r["attempt"] == recorded.number}
    if not then:
        where = store.warehouse.table("metrics")
        raise UserError(f"{where}: no metrics of {recorded}; run `star-ctr evaluate` first")
    differing = sorted(d for d in {*now, *then} if _select_metrics(now.get(d)) != _select_metrics(then.get(d)))
    return "the same" if not differing else f"differ in {', '.join(differing)}"


def _select_metrics(row: dict[str, Any] | None) -> list[Any] | None:
    return None if row is None else [row[name] for name in METRICS]
