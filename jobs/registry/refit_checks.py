"""Checks that a refit must pass before it is served.

The gate evaluated the promoted run only. A refit is a separate training run and can fail independently. Its weights and
scores must be finite, the exported model must match the trainer's model, and PCOC on its newest training day must be
within `gate.pcoc`. The checks use training rows of the refit, because it has no held-out data left.
"""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.gate import GateSettings
from star_ctr.features.evaluation.metrics import compute_totals
from star_ctr.jobs.io.split_rows import read_train_rows
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.quality.score_checks import check_scores
from star_ctr.jobs.registry.attempts import get_attempt, read_result
from star_ctr.jobs.registry.gate_policy import check_refit
from star_ctr.jobs.score import check_parity, compare_with_trainer, score_rows
from star_ctr.model.export import read_weights
from star_ctr.model.training.job import TrainingJob


def find_failures(store: WarehouseTables, gate: GateSettings, job: TrainingJob) -> list[str]:
    """Run all checks of a trained refit.

    Args:
        store: The tables of the warehouse.
        gate: The settings of the gate.
        job: The job of the refit, with its attempt.

    Returns:
        The reasons why the refit must not be served; empty if there are none.
    """
    rows = read_train_rows(store, job)
    try:
        read_weights(job.path)
        _check_parity(rows, job)
        return _check_rates(rows, gate, job)
    except DataError as error:
        return [str(error)]


def _check_parity(rows: DataFrame, job: TrainingJob) -> None:
    """Raise `DataError` if the exported model does not match the trainer's sampled scores, or if no sample exists."""
    record = read_result(job)
    if not record["sample_scores"]:
        raise DataError(f"{job.run_id}: training left no sample of scores to compare with; train the run again")
    ids = rows.sparkSession.createDataFrame([(i,) for i in record["sample_scores"]], "impression_id string")
    sampled = rows.join(F.broadcast(ids), "impression_id", "left_semi")
    check_parity(job.run_id, compare_with_trainer(score_rows(sampled, get_attempt(job)), record))


def _check_rates(rows: DataFrame, gate: GateSettings, job: TrainingJob) -> list[str]:
    """Score the newest training day, and return the reasons why its metrics are not acceptable."""
    scores = score_rows(rows.where(F.col("day") == job.ds), get_attempt(job)).persist()
    try:
        check_scores(scores, job.split)
        return check_refit(gate, [row.asDict() for row in compute_totals(scores).collect()])
    finally:
        scores.unpersist()
