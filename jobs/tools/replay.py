"""Replay: train and score a recorded run again from the table versions that it is pinned to, and compare the results.

The tables of the warehouse do not change. The replay trains in a separate folder, `replays/<run_id>/<attempt>` in the
warehouse, and its scores are evaluated without being written.
"""

from __future__ import annotations

from typing import Any

from pyspark.sql import SparkSession

from star_ctr.conf.contracts.catalog import WEIGHTS_FILE
from star_ctr.conf.contracts.fingerprint import hash_code
from star_ctr.conf.contracts.run_id import strip_refit_suffix
from star_ctr.conf.errors import UserError
from star_ctr.conf.files import hash_file, open_folder, remove_folder
from star_ctr.conf.settings.root import Settings
from star_ctr.features.evaluation.metrics import METRICS, compute_metrics
from star_ctr.jobs.evaluate import NO_INTERVALS, read_metrics
from star_ctr.jobs.io.spark_launcher import launch_on_spark
from star_ctr.jobs.io.split_rows import read_test_rows
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.quality.score_checks import check_scores
from star_ctr.jobs.registry.attempts import Attempt, check_files, get_attempt, get_published_attempt, read_job
from star_ctr.jobs.score import score_rows
from star_ctr.model.train import launch
from star_ctr.model.training.job import TrainingJob


def run(settings: Settings, spark: SparkSession, run_id: str, number: int | None = None) -> dict[str, Any]:
    """Train and score an attempt of a run again, and compare weights and metrics with the recorded ones.

    Args:
        settings: The settings, with the warehouse.
        spark: The session.
        run_id: The run.
        number: The number of the attempt; the newest published one by default.

    Returns:
        Whether weights and metrics are identical, the run, the attempt, how weights, metrics and code compare, and the
        folder of the replay.

    Raises:
        UserError: There is no such attempt, or it cannot be reproduced because it was resumed with a different number
            of processes or threads.
    """
    store = WarehouseTables(settings, spark)
    attempt = check_files(get_published_attempt(store.warehouse, run_id, number))
    job, record = read_job(attempt), attempt.record()
    if not record["reproducible"]:
        sizes = ", ".join(f"{w['processes']} processes of {w['threads']} threads" for w in record["environments"])
        raise UserError(
            f"{attempt}: cannot be replayed, because training was resumed with a different number of processes or "
            f"threads ({sizes}), which changes the weights. Select another attempt with --attempt"
        )
    # Use the recorded numbers of threads and processes on any machine, because they determine the order of sums.
    trainer = job.trainer.model_copy(update={"threads": record["threads"], "processes": record["processes"]})
    folder = open_folder(store.warehouse.root) / "replays" / run_id / attempt.folder.name
    remove_folder(folder)
    code = hash_code(["star_ctr.model.train"])
    replayed = job.model_copy(update={"folder": str(folder), "trainer": trainer, "code": code})
    (launch if trainer.distributed.launcher == "torchrun" else launch_on_spark)(replayed, False)
    weights = [hash_file(path / WEIGHTS_FILE)[:16] for path in (attempt.folder, folder)]
    same_weights = weights[0] == weights[1]
    # A refit has no held-out data to be evaluated on.
    is_refit = strip_refit_suffix(run_id) != run_id
    differing = [] if is_refit else _compare_metrics(store, replayed, attempt)
    return {
        "identical": same_weights and not differing,
        "run_id": run_id,
        "attempt": attempt.number,
        "weights": "the same bits" if same_weights else f"differ: recorded {weights[0]}, now {weights[1]}",
        "metrics": "none, because it is a refit" if is_refit else _describe(differing),
        "code": "the same" if code == job.code else f"changed: recorded {job.code}, now {code}",
        "folder": str(folder),
    }


def _compare_metrics(store: WarehouseTables, job: TrainingJob, recorded: Attempt) -> list[str]:
    """Compare the metrics of a replayed model with the recorded ones; returns the domains that differ."""
    scores = score_rows(read_test_rows(store, job), get_attempt(job))
    check_scores(scores, str(job.path))
    new = {r.domain: r.asDict() for r in compute_metrics(scores, NO_INTERVALS).collect()}
    old = {r["domain"]: r for r in read_metrics(store, [job.run_id]) if r["attempt"] == recorded.number}
    if not old:
        table = store.warehouse.table("metrics")
        raise UserError(f"{table}: no metrics of {recorded}; run `star-ctr evaluate` first")
    return sorted(d for d in {*new, *old} if _select_metrics(new.get(d)) != _select_metrics(old.get(d)))


def _describe(differing: list[str]) -> str:
    return f"differ in {', '.join(differing)}" if differing else "the same"


def _select_metrics(row: dict[str, Any] | None) -> list[Any] | None:
    """Return the METRICS of a row; None if the row does not exist."""
    return None if row is None else [row[name] for name in METRICS]
