"""Train: train a model on a night's split, publish it, and write its record to `runs`.

The trainer is pinned to one Delta version of the split, so later writes do not change its inputs.

    spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/train.py --conf conf/kuairand.yaml
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from pyspark.sql import SparkSession

from star_ctr.conf.contracts.catalog import NIGHT_TABLES, SplitTables, Warehouse
from star_ctr.conf.contracts.compatibility import list_changes
from star_ctr.conf.contracts.dates import check_day
from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.contracts.fingerprint import hash_code
from star_ctr.conf.contracts.run_id import format_variant, hash_config
from star_ctr.conf.contracts.stored import parse_stored
from star_ctr.conf.errors import DataError, UserError
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.delta_rows import describe_schema, quote_literal
from star_ctr.jobs.io.session import run_submitted_step
from star_ctr.jobs.io.spark_launcher import launch_on_spark
from star_ctr.jobs.io.split_commits import DAYS, read_split_commit
from star_ctr.jobs.io.train_ledger import write_trained_rows
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.quality.training_checks import describe_undertraining
from star_ctr.jobs.registry.attempts import (
    assign_attempt,
    get_attempt,
    list_attempts,
    publish_attempt,
    read_job,
    read_result,
)
from star_ctr.jobs.registry.calibration_maps import fit_calibration_maps
from star_ctr.jobs.registry.job_definition import PinnedVersions, define_job
from star_ctr.jobs.registry.recipes import describe_size_change
from star_ctr.model.train import launch
from star_ctr.model.training.calibration_maps import CalibrationMaps
from star_ctr.model.training.job import TrainingJob

RUNS_SCHEMA = describe_schema(
    "runs",
    [
        ("run_id", pa.string()),
        ("attempt", pa.int64()),
        ("ds", pa.string()),
        ("model", pa.string()),
        ("seed", pa.int64()),
        ("config", pa.string()),
        ("code", pa.string()),
        ("versions", pa.string()),
        ("rows", pa.int64()),
        ("seconds", pa.float64()),
        ("max_score_difference", pa.float64()),
        ("record", pa.string()),
    ],
)
"""Schema of `runs`."""
NOT_IN_RUNS = ("sample_scores", "sample_outcome_scores", "files")
"""Keys of the record of an attempt that `runs` does not contain."""
_logger = logging.getLogger(__name__)


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> dict[str, Any]:
    """Train the run of night `ds`, and publish its model.

    An interrupted run resumes from its last checkpoint if its inputs and settings have not changed.

    Args:
        settings: The settings of the data set.
        spark: The Spark session.
        ds: The night; by default the newest day of `split`.

    Returns:
        A summary of the run's record.

    Raises:
        DataError: There is no split of the night, or not all of its training rows were used.
        UserError: Training failed; or `trainer.checkpoint.resume` is `require`, but there is no checkpoint of the same
            training run.
    """
    store = WarehouseTables(settings, spark)
    ds = check_day(ds) if ds else store.get_newest_day("split")
    return train_run(
        settings, store, make_job(settings, store, ds, calibration_maps=fit_calibration_maps(settings, store, ds))
    )


def train_run(settings: Settings, store: WarehouseTables, job: TrainingJob) -> dict[str, Any]:
    """Train and publish a job like `train_job`, and log warnings; returns a summary of its record."""
    record = train_job(settings, store, job)
    rows = sum(record["rows"].values()) // job.trainer.epochs
    for warning in (*describe_undertraining(job, record), *describe_size_change(settings, rows)):
        _logger.warning("train: %s", warning)
    summary = ("run_id", "attempt", "steps", "parameters", "seconds", "resumed", "device", "processes")
    return {k: record[k] for k in summary}


def train_job(settings: Settings, store: WarehouseTables, job: TrainingJob) -> dict[str, Any]:
    """Train a job, unless its attempt is already published, and publish it.

    Args:
        settings: The settings of the data set.
        store: The tables.
        job: The job, with its attempt.

    Returns:
        The record of the attempt that holds the model.

    Raises:
        DataError: Not all training rows were used.
        UserError: Training failed; or `trainer.checkpoint.resume` is `require`, but there is no checkpoint of the same
            training run.
    """
    if not get_attempt(job).is_published:
        if must_resume := job.trainer.checkpoint.resume == "require":
            _check_resumable(store.warehouse, job)
        start = launch if job.trainer.distributed.launcher == "torchrun" else launch_on_spark
        start(job, must_resume)
    incomplete = write_trained_rows(store, [(job, read_result(job))])
    if incomplete:
        raise DataError(
            f"{', '.join(incomplete)}: not all rows of the split were used in training; see the table `ledger`"
        )
    record = publish_attempt(job)
    write_runs(store, [(settings, record, None)])
    return record


def _check_resumable(warehouse: Warehouse, job: TrainingJob) -> None:
    """Raise `UserError` if there is no training run of this job to resume. The message lists what has changed."""
    if job.path.exists():
        return
    attempts = list_attempts(warehouse, job.run_id)
    if not attempts:
        raise UserError(f"{job.path}: no checkpoint to resume from; train without --resume")
    changed = list_changes(read_job(attempts[-1]).identity(), job.identity())
    raise UserError(
        f"{attempts[-1].folder}: changed since this attempt: {'; '.join(changed) or 'its files'}. Set it back, or "
        "allow a new start with trainer.checkpoint.resume=auto (train without --resume)"
    )


def pin_versions(store: WarehouseTables, ds: str, tables: SplitTables = NIGHT_TABLES) -> PinnedVersions:
    """Pin the newest version of a night's split, with its layout and vocabularies, and the current code.

    Args:
        store: The tables.
        ds: The night.
        tables: The tables of the split: those of the night, or those of its refit.

    Returns:
        The pinned versions of the tables, the layout and the hash of the code.

    Raises:
        DataError: There is no split of the night.
    """
    store.read(tables.split)
    version, metadata = read_split_commit(store.warehouse.table(tables.split), ds)
    return PinnedVersions(
        tables,
        {"split": version, "vocabularies": metadata["vocabularies"]},
        parse_stored(Layout, metadata["layout"], store.warehouse.table("split")),
        metadata.get(DAYS, []),
        hash_code(["star_ctr.model.train"]),
    )


def make_job(
    settings: Settings,
    store: WarehouseTables,
    ds: str,
    pinned: PinnedVersions | None = None,
    calibration_maps: CalibrationMaps | None = None,
) -> TrainingJob:
    """Return the training job of a night, or of its refit, with its attempt assigned.

    Args:
        settings: The settings of the data set.
        store: The tables.
        ds: The night.
        pinned: The inputs; by default those of `pin_versions` for the night.
        calibration_maps: The calibration on the scores of earlier nights; none by default.

    Raises:
        DataError: There is no split of the night.
        UserError: Training cannot start from the run in `trainer.warm_start`.
    """
    return assign_attempt(
        store.warehouse, define_job(settings, ds, pinned or pin_versions(store, ds), calibration_maps)
    )


def write_runs(store: WarehouseTables, runs: Sequence[tuple[Settings, dict[str, Any], float | None]]) -> None:
    """Write one row per attempt to `runs`.

    Args:
        store: The tables.
        runs: The settings of each run, the record of its attempt, and the largest difference between the trainer's and
            the scorer's scores (None if not known yet).
    """
    rows = [
        (
            record["run_id"], record["attempt"], record["ds"], format_variant(settings), record["seed"],
            hash_config(settings), record["code"], json.dumps(record["versions"]),
            sum(record["rows"].values()), float(record["seconds"]), difference,
            json.dumps({k: v for k, v in record.items() if k not in NOT_IN_RUNS}, sort_keys=True),
        )
        for settings, record, difference in runs
    ]  # fmt: skip
    attempts = (f"(run_id = {quote_literal(r[0])} AND attempt = {r[1]})" for r in rows)
    store.replace_rows("runs", rows, RUNS_SCHEMA, f"({' OR '.join(attempts)})")


if __name__ == "__main__":
    run_submitted_step("train")
