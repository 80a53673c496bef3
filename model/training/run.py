"""A training run, from its job to the record and the exported model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from star_ctr.conf.contracts.catalog import RESULT_FILE
from star_ctr.conf.files import write_json
from star_ctr.model import export
from star_ctr.model.distributed.process_group import get_rank_and_size
from star_ctr.model.parity_sample import score_sample
from star_ctr.model.training import trainer_state
from star_ctr.model.training.calibration_maps import describe_maps
from star_ctr.model.training.callbacks import Callback
from star_ctr.model.training.callbacks.checkpoints_and_sigterm import Checkpoints
from star_ctr.model.training.callbacks.record import LossCurve, ShuffleQuality, StartRecord, TimeSpent
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.trainer import Trainer
from star_ctr.model.training.warm_start import start_from_run


def train(job: TrainingJob, callbacks: Sequence[Callback] = (), must_resume: bool = False) -> dict[str, Any]:
    """Train a job to its end, and write the record (`result.json`) and the exported model to its folder.

    Resumes from the job's checkpoint if there is one.

    Args:
        job: The job.
        callbacks: Callbacks to call in addition to those that fill the record and write checkpoints.
        must_resume: Fail if there is no checkpoint of this job.

    Returns:
        The record of the training run.

    Raises:
        UserError: `must_resume` is set and there is no checkpoint of this job, or the job cannot start from the run in
            `job.start`.
        DataError: The split has no training rows or cannot be read, or the loss is not finite.
        StoppedError: The process received SIGTERM, and a checkpoint was saved.
    """
    trainer = Trainer(job)
    curve, mixing, spent, started = recorders = (
        LossCurve(),
        ShuffleQuality(trainer.files, trainer.mixed),
        TimeSpent(),
        StartRecord(),
    )
    resumed = trainer_state.resume(trainer, recorders, must_resume)
    if job.start and not resumed:
        started.report = start_from_run(trainer)
    # Checkpoints are last, so that they contain what the recorders saw of the step.
    checkpoints = Checkpoints(lambda: trainer_state.save(trainer, recorders), job.trainer.checkpoint.minutes)
    trainer.train([*callbacks, *recorders, checkpoints])
    trainer_state.save(trainer, recorders)
    statistics_rows, shifts = trainer.finish()
    trainer.model.inputs.tables.gather()
    record = {
        "run_id": job.run_id,
        "attempt": job.attempt,
        "ds": job.ds,
        "seed": job.trainer.seed,
        "fingerprint": job.fingerprint(),
        "versions": job.versions,
        "code": job.code,
        "settings": job.settings,
        "processes": get_rank_and_size()[1],
        "environments": trainer.environments,
        "reproducible": len(trainer.environments) == 1,
        "tables": trainer.tables,
        "threads": trainer.threads,
        "device": str(trainer.device),
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "steps": trainer.step,
        "resumed": resumed,
        "start": started.report,
        "seconds": round(spent.total.seconds, 3),
        "rows_per_second": round(spent.total.rate, 1),
        "waiting_share": round(spent.total.waiting_share, 4),
        "shuffle_quality": mixing.found,
        "rows": trainer.label_by_domain(trainer.rows_by_domain),
        "left_out": trainer.label_by_domain(trainer.count_left_out()),
        "excluded": trainer.label_by_domain(trainer.data.excluded_rows),
        "mean_weight": trainer.files[0].mean_weight,
        "statistics_rows": trainer.label_by_domain(statistics_rows),
        "calibration_maps": describe_maps(job.calibration_maps) if job.calibration_maps else None,
        "bias_shifts": _name_shifts(trainer, shifts.label),
        "outcome_bias_shifts": {name: _name_shifts(trainer, found) for name, found in shifts.outcomes.items()},
        "single_row_batches": trainer.label_by_domain(trainer.model.single_row_batches()),
        "curve": curve.curve,
        "last_loss": curve.last_loss,
        "baseline_loss": curve.baseline_loss,
    }
    if get_rank_and_size()[0] == 0:
        export.export(trainer.model, job.model, job.layout, job.path)
        record["sample_scores"], record["sample_outcome_scores"] = score_sample(trainer.model, job, trainer.device)
        write_json(job.path / RESULT_FILE, record)
    return record


def _name_shifts(trainer: Trainer, shifts: dict[int, float]) -> dict[str, float]:
    """Return rounded shifts by domain name, for the record."""
    return {trainer.domain_name(p): round(shift, 6) for p, shift in sorted(shifts.items())}
