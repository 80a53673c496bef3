"""Signs that a training run has learned too little."""

from __future__ import annotations

from typing import Any

from star_ctr.model.training.job import TrainingJob

_FEW_STEPS = 200
_NO_PROGRESS = 0.998
"""Share of the loss of a constant prediction that a trained model must fall below."""


def describe_weak_training(job: TrainingJob, record: dict[str, Any]) -> list[str]:
    """Describe signs that a model has hardly been trained.

    Args:
        job: The training job.
        record: Its record.

    Returns:
        A warning if there were very few steps, or if the loss at the end is not lower than that of a constant
        prediction. Runs with a warm start have none.
    """
    if job.start is not None:
        return []
    if record["steps"] < _FEW_STEPS:
        return [
            f"only {record['steps']} steps with trainer.batch_size={job.trainer.batch_size} and "
            f"trainer.epochs={job.trainer.epochs}, which is too few for most models; lower the batch size, raise the "
            "epochs, or train on more days (window.days)"
        ]
    losses = [loss for _, loss in record["curve"]]
    last = losses[-max(1, len(losses) // 4) :]
    mean, constant = sum(last) / len(last), record.get("constant_loss")
    if constant is None or mean < constant * _NO_PROGRESS:
        return []
    return [
        f"the loss of the last steps is {mean:.4f}, and predicting the same click rate for all rows gives "
        f"{constant:.4f}: the model has learned almost nothing; change trainer.optimizer.lr, train for more steps, or "
        "check the features with `star-ctr explain`"
    ]
