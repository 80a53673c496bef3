"""Training and scoring of a job in one process without Spark, for comparisons that run many jobs in parallel."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from star_ctr.conf.contracts.catalog import RESULT_FILE
from star_ctr.conf.errors import DataError
from star_ctr.conf.files import open_replacement
from star_ctr.model.data.reader import list_live_files
from star_ctr.model.parity_sample import read_encoded_rows
from star_ctr.model.predictor import Predictor
from star_ctr.model.score_checks import TOLERANCE, check_score_array, is_within_tolerance
from star_ctr.model.train import write_job
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.run import train

SCORES = "scores.parquet"
"""Name of the file with the scores of the test rows."""


def is_trained(job: TrainingJob) -> bool:
    """Return whether the job's folder contains the result and the scores of this job."""
    # `train_and_score` deletes this file first and writes it last, so it exists only if the job is complete.
    if not (job.path / SCORES).exists():
        return False
    return job.is_result(json.loads((job.path / RESULT_FILE).read_text(encoding="utf-8")))


def train_and_score(job: TrainingJob) -> float:
    """Train a job, export its model, and write the scores of the test rows to `scores.parquet`.

    Resumes from the job's checkpoint if there is one.

    Args:
        job: The training job.

    Returns:
        The training time in seconds.

    Raises:
        DataError: The exported model and the trainer's model differ in the scores of the parity sample, rows of the
            sample were not scored, or a score is not in [0, 1].
    """
    (job.path / SCORES).unlink(missing_ok=True)
    write_job(job)
    record = train(job)
    files = list_live_files(job.split, job.versions["split"], job.test_partitions, job.layout)
    predictor = Predictor(job.path)
    tables = []
    sample_scores, compared, difference = record["sample_scores"], 0, 0.0
    for file in files:
        keys, rows = read_encoded_rows(file, job.layout)
        scores = predictor.predict(rows.ints, rows.floats, rows.domain).astype(np.float64)
        ids = keys["impression_id"].to_pylist()
        sampled = [k for k, i in enumerate(ids) if i in sample_scores]
        compared += len(sampled)
        trainer_scores = np.array([sample_scores[ids[k]] for k in sampled], np.float64)
        # np.maximum propagates NaN.
        difference = np.maximum(difference, np.max(np.abs(scores[sampled] - trainer_scores), initial=0.0))
        tables.append(
            keys.select(["impression_id", "user_id", "domain"])
            .append_column("label", keys["label"].cast(pa.float64()))
            .append_column("label_final", keys["label_final"])
            .append_column("score", pa.array(scores))
        )
    table = pa.concat_tables(tables)
    check_score_array(table["score"].to_numpy(), table["domain"].to_pylist(), f"{job.run_id}: the exported model")
    if compared != len(sample_scores):
        raise DataError(
            f"{job.run_id}: {len(sample_scores) - compared:,} of {len(sample_scores):,} sampled rows were not scored"
        )
    if not is_within_tolerance(difference):
        raise DataError(
            f"{job.run_id}: the scores of the exported model differ from those of the trainer's model by "
            f"{difference:.3g} (allowed: {TOLERANCE})"
        )
    for name, value in (("ds", job.ds), ("attempt", job.attempt), ("run_id", job.run_id)):
        table = table.add_column(0, name, pa.array([value] * len(table)))
    stream = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({"max_score_difference": str(float(difference))}), stream)
    with open_replacement(job.path / SCORES) as file_to_write:
        file_to_write.write_bytes(stream.getvalue().to_pybytes())
    return float(record["seconds"])
