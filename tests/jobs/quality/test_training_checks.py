"""Warnings about undertrained models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from star_ctr.conf.settings.trainer import TrainerSettings
from star_ctr.jobs.quality.training_checks import describe_undertraining
from star_ctr.model.data.batches import Batch
from star_ctr.model.data.reader import Rows
from star_ctr.model.training.callbacks import CallbackEvent, StepResult
from star_ctr.model.training.callbacks.record import LossCurve
from star_ctr.model.training.job import TrainingJob, WarmStart


def make_job(**more: Any) -> TrainingJob:
    return TrainingJob.model_construct(trainer=TrainerSettings(batch_size=64), start=None, **more)


@pytest.mark.parametrize(
    ("steps", "last", "expected"),
    [
        (199, 0.2, "only 199 training steps (trainer.batch_size=64"),
        (1000, 0.2, None),
        (1000, 0.3249, "learned almost nothing"),
    ],
)
def test_weak_training_is_described(steps: int, last: float, expected: str | None) -> None:
    curve = [(10 * k, loss) for k, loss in enumerate([0.69, 0.4, *[0.33] * 58, *[last] * 20])]
    found = describe_undertraining(make_job(), {"steps": steps, "curve": curve, "baseline_loss": 0.32508})
    assert [expected in text for text in found if expected] == ([] if expected is None else [True])
    assert (found == []) == (expected is None)


def test_a_warm_start_needs_few_steps() -> None:
    start = WarmStart(run_id="r", folder="f", weights="w")
    job = make_job().model_copy(update={"start": start})
    assert describe_undertraining(job, {"steps": 3, "curve": [(3, 0.9)], "baseline_loss": 0.3}) == []


def test_the_constant_loss_is_the_entropy_of_all_labels() -> None:
    label = np.array([1, 0, 0, 0, 0, 1, 0, 0, 0, 0], dtype=np.float32)
    curve = LossCurve()
    assert curve.baseline_loss is None
    for part in (label[:4], label[4:]):
        zeros = np.zeros((len(part), 1), dtype=np.int32)
        batch = Batch(0, Rows(zeros, zeros.astype(np.float32), part, zeros[:, 0]), zeros[:, 0])
        curve.step(CallbackEvent(1, 2, batches=[StepResult(batch, "a", 0.5)]))
        again = LossCurve()
        again.load_state_dict(curve.state_dict())
        curve = again
    assert curve.baseline_loss == pytest.approx(-0.2 * np.log(0.2) - 0.8 * np.log(0.8), abs=1e-6)
