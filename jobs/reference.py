"""Reference: train a model from scratch, and compare the model of a night with it.

With `trainer.warm_start`, a night continues from an earlier model with few training days. Over many nights, such models
can become worse than a model trained from scratch on more days. On the nights that the section `reference` selects,
this step trains such a model, the reference:

1. It has the settings and the seed of the night's run. It is calibrated on the scores of earlier references.
2. It is trained on the rows that earlier nights have encoded for the last `reference.window_days` days.
3. It is scored and evaluated on the test rows of the night. The metrics of the night's run minus those of the reference
   are written to `differences`, with intervals.

A reference is a separate run, `RUN-reference`. It is never served, and no night continues from it.

    spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/reference.py --conf conf/kuairand.yaml
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyspark.sql import SparkSession

from star_ctr.conf.contracts.dates import check_day, list_days_before, list_reference_calibration_nights
from star_ctr.conf.contracts.domains import OVERALL
from star_ctr.conf.contracts.fingerprint import hash_code
from star_ctr.conf.contracts.run_id import format_variant, make_reference_run_id, make_run_id
from star_ctr.conf.redaction import dump_redacted
from star_ctr.conf.settings.root import Settings
from star_ctr.features.evaluation.bootstrap import ALL_METRICS
from star_ctr.jobs.evaluate import ScoredRun, evaluate_runs, find_scored_attempt
from star_ctr.jobs.io.session import run_submitted_step
from star_ctr.jobs.io.training_days import find_encoded_days
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.registry.attempts import assign_attempt, check_files, get_published_attempt, read_job
from star_ctr.jobs.registry.calibration_maps import fit_calibration_maps
from star_ctr.jobs.registry.gate_checks import require_bootstrap_samples
from star_ctr.jobs.registry.reference_gaps import ATTEMPT, REFERENCE_ATTEMPT, TRAINING_DAYS, describe_gap
from star_ctr.jobs.score import score_run
from star_ctr.jobs.tools.differences import compare_runs
from star_ctr.jobs.train import train_job
from star_ctr.model.training.calibration_maps import CalibrationMaps
from star_ctr.model.training.job import TrainingJob


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> dict[str, Any]:
    """Train the reference of night `ds` if it is due, and compare the night's run with it.

    If its inputs have not changed, a reference that was killed resumes, and a finished one is reused.

    Args:
        settings: The settings of the data set.
        spark: The Spark session.
        ds: The night; by default the newest day of `scores`.

    Returns:
        `run_id`, `outcome` and `reason`. After a comparison, also `reference_run_id`, the training days of the
        reference (`days`), and the rows that were written to `differences`.

    Raises:
        DataError: There are no scores of the night's run, they are not from its newest attempt, or a check of the
            reference failed.
        UserError: The night has no finished run, or training failed.
    """
    store = WarehouseTables(settings, spark)
    ds = check_day(ds) if ds else store.get_newest_day("scores")
    name = make_run_id(settings, ds)
    if reason := explain_why_skipped(settings, ds):
        return {"run_id": name, "outcome": "nothing to compare", "reason": reason}
    night = get_published_attempt(store.warehouse, name, find_scored_attempt(store, name, ds))
    job = read_job(check_files(night))
    if job.start is None:
        reason = "the night's model was trained from scratch, because there was no earlier model"
        return {"run_id": name, "outcome": "nothing to compare", "reason": reason}
    days = choose_training_days(settings, job)
    nights = list_reference_calibration_nights(settings, ds)
    earlier = {make_reference_run_id(make_run_id(settings, n)): n for n in nights}
    maps = fit_calibration_maps(settings, store, ds, earlier=earlier)
    reference = assign_attempt(store.warehouse, make_reference_job(settings, job, days, maps))
    record = train_job(settings, store, reference)
    attempt = check_files(get_published_attempt(store.warehouse, reference.run_id, record["attempt"]))
    score_run(settings, store, attempt, ds)
    seed = settings.trainer.seed
    evaluate_runs(store, [ScoredRun(attempt.run_id, attempt.number, ds, format_variant(settings), seed)])
    more = {ATTEMPT: night.number, REFERENCE_ATTEMPT: attempt.number, TRAINING_DAYS: len(days)}
    rows = compare_runs(store, require_bootstrap_samples(settings), name, attempt.run_id, ALL_METRICS, more)
    overall = next(row for row in rows if row["domain"] == OVERALL)
    has_same_calibration = (maps is None) == (job.calibration_maps is None)
    return {
        "run_id": name, "outcome": "compared", "reason": describe_gap(overall, has_same_calibration),
        "reference_run_id": attempt.run_id, "days": days, "differences": rows,
    }  # fmt: skip


def explain_why_skipped(settings: Settings, ds: str | None = None) -> str:
    """Return the reason why a night, or every night, has no reference; empty if it has one.

    Args:
        settings: The settings of the data set.
        ds: The night; None if it is not known yet.

    Raises:
        DataError: `ds` is not a date.
    """
    if settings.reference is None:
        return "the section `reference` is not set"
    if ds is None or settings.reference.is_due(check_day(ds)):
        return ""
    return f"no reference is due on {ds} (reference.every_nights: {settings.reference.every_nights})"


def choose_training_days(settings: Settings, job: TrainingJob) -> list[str]:
    """Return the training days of the reference of a night, oldest first.

    These are the training days of the night, and the days before them that the split stores with the same ids.

    Args:
        settings: The settings of the data set, with `reference`.
        job: The job of the night's run.
    """
    assert settings.reference is not None
    window = list_days_before(job.ds, settings.reference.window_days)
    stored = find_encoded_days(settings, job.split, job.versions["split"], job.layout, window)
    return sorted({*job.days, *stored})


def make_reference_job(
    settings: Settings, job: TrainingJob, days: Sequence[str], maps: CalibrationMaps | None
) -> TrainingJob:
    """Return the job of the reference of a night, without an attempt.

    Args:
        settings: The settings of the data set.
        job: The job of the night's run.
        days: The training days.
        maps: The calibration on the scores of earlier references; None without such scores.

    Returns:
        The job, with the table versions and the layout of the night's run.
    """
    changes = {
        "run_id": make_reference_run_id(job.run_id),
        "days": list(days),
        "start": None,
        "calibration_maps": maps,
        "attempt": 1,
        "folder": "",
        "code": hash_code(["star_ctr.model.train"]),
        # A new reference has no checkpoint to resume from, even if the night must have one.
        "trainer": settings.trainer.model_copy(
            update={
                "warm_start": None,
                "checkpoint": settings.trainer.checkpoint.model_copy(update={"resume": "auto"}),
            }
        ),
        "settings": dump_redacted(settings),
    }
    return job.model_copy(update=changes)


if __name__ == "__main__":
    run_submitted_step("reference")
