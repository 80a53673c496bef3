"""Warnings about undertrained models."""

from __future__ import annotations

from typing import Any

from star_ctr.model.training.job import TrainingJob

_MIN_STEPS = 200
_MAX_LOSS_RATIO = 0.998
"""A model above this ratio of training loss to baseline loss has learned almost nothing."""


def describe_undertraining(job: TrainingJob, record: dict[str, Any]) -> list[str]:
    """Describe signs that a model is undertrained.

    Args:
        job: The training job.
        record: Its record.

    Returns:
        A warning, if there were too few steps, or if the final loss is no better than the baseline. None for warm
        starts, which need few steps.
    """
    if job.start is not None:
        return []
    if record["steps"] < _MIN_STEPS:
        return [
            f"only {record['steps']} training steps (trainer.batch_size={job.trainer.batch_size}, "
            f"trainer.epochs={job.trainer.epochs}), too few for most models; lower the batch size, train for more "
            "epochs, or use more days (window.days)"
        ]
    last, baseline = record.get("last_loss"), record.get("baseline_loss")
    if not last or not baseline or last < baseline * _MAX_LOSS_RATIO:
        return []
    return [
        f"the training loss of {last:.4f} is no better than the {baseline:.4f} of always predicting the CTR of the "
        "domain: the model has learned almost nothing. Try another trainer.optimizer.lr or more epochs, or check the "
        "features with `star-ctr explain`"
    ]
