"""Warnings about undertrained models."""

from __future__ import annotations

import json
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
    found = describe_undertraining(make_job(), {"steps": steps, "last_loss": last, "baseline_loss": 0.32508})
    assert [expected in text for text in found if expected] == ([] if expected is None else [True])
    assert (found == []) == (expected is None)


def test_a_warm_start_needs_few_steps() -> None:
    start = WarmStart(run_id="r", folder="f", weights="w")
    job = make_job().model_copy(update={"start": start})
    assert describe_undertraining(job, {"steps": 3, "last_loss": 0.9, "baseline_loss": 0.3}) == []


def make_batch(domain: int, label: list[int]) -> Batch:
    n = len(label)
    ints, floats = np.zeros((n, 1), dtype=np.int32), np.zeros((n, 1), dtype=np.float32)
    rows = Rows(ints, floats, np.array(label, dtype=np.float32), np.full(n, domain, dtype=np.int32))
    return Batch(domain, rows, np.zeros(n, dtype=np.int32))


def test_losses_are_weighted_by_rows_and_compared_by_domain() -> None:
    """Many small batches of a domain with frequent clicks do not count more than one large batch."""
    curve = LossCurve()
    assert curve.baseline_loss is None
    batches = [make_batch(7, [1] + [0] * 99), make_batch(7, [0] * 100), *[make_batch(3, [1, 0])] * 6]
    for step, batch in enumerate(batches, start=1):
        loss = 0.05 if batch.domain == 7 else 0.7
        curve.step(CallbackEvent(step, len(batches), batches=[StepResult(batch, "a", loss)]))
        again = LossCurve()
        again.load_state_dict(json.loads(json.dumps(curve.state_dict())))
        curve = again
    rare = -0.005 * np.log(0.005) - 0.995 * np.log(0.995)
    assert curve.baseline_loss == pytest.approx((200 * rare + 12 * np.log(2)) / 212, abs=1e-6)
    assert curve.last_loss == 0.7  # of the last two of eight steps
    one = LossCurve()
    for step, (batch, loss) in enumerate([(batches[0], 0.1), (batches[0], 0.05), (batches[2], 0.7)], start=7):
        one.step(CallbackEvent(step, 8, batches=[StepResult(batch, "a", loss)]))
    assert one.last_loss == pytest.approx((100 * 0.1 + 100 * 0.05 + 2 * 0.7) / 202, abs=1e-6)
