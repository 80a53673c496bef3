"""Callbacks of the training loop: checkpoints, progress bar, record, TensorBoard and MLflow.

The loop calls `begin` before the first step, `step` after each step, and `end` after the last step or when an error
leaves the loop. Each module of this package contains the callbacks for one purpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from star_ctr.model.data.batches import Batch


@dataclass(frozen=True)
class StepResult:
    """The result of a step on one batch.

    Attributes:
        batch: The batch.
        domain: Name of its domain; `mixed` for a mixed batch.
        loss: Mean loss over its rows; weighted, if they have weights.
    """

    batch: Batch
    domain: str
    loss: float


@dataclass(frozen=True)
class CallbackEvent:
    """The progress of a training run at the time of a callback.

    Attributes:
        step: Steps done since the start of the training run, counted in batches.
        steps: Steps of the whole training run, counted in batches.
        rows: Rows trained on since this process started.
        seconds: Seconds since this process started to train.
        waited: Seconds of these in which the loop waited for data.
        lr: Learning rate of the last step; 0 before the first step.
        batches: Results of the last step: one, or one per process with `trainer.parallel=batches`. Empty before the
            first step.
    """

    step: int
    steps: int
    rows: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    lr: float = 0.0
    batches: Sequence[StepResult] = ()

    @property
    def loss(self) -> float:
        """Mean loss over the rows of the last step; weighted, if they have weights. 0 before the first step."""
        weight = sum(b.batch.rows.total_weight for b in self.batches)
        return sum(b.loss * b.batch.rows.total_weight for b in self.batches) / weight if self.batches else 0.0

    @property
    def rate(self) -> float:
        """Rows per second since this process started to train."""
        return self.rows / max(self.seconds, 1e-9)

    @property
    def waiting_share(self) -> float:
        """Share of the time in which the loop waited for data."""
        return self.waited / max(self.seconds, 1e-9)


class Callback:
    """Base class of callbacks; a subclass overrides the methods that it needs."""

    def begin(self, event: CallbackEvent) -> None:
        """Run before the first step of this process; `event.step` is not 0 in a resumed training run."""

    def step(self, event: CallbackEvent) -> None:
        """Run after each step."""

    def end(self, event: CallbackEvent) -> None:
        """Run after the last step, or when an error leaves the loop."""
