"""The concerns of the training loop that are not training: each a hook in a file of its own, told at every step.

`begin` comes before the first step, `step` after each, `end` after the last one or when the loop is left by an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from star_ctr.model.data.batches import Batch


@dataclass(frozen=True)
class StepResult:
    """A batch that a step was made of, the name of its domain and its loss."""

    batch: Batch
    domain: str
    loss: float


@dataclass(frozen=True)
class CallbackEvent:
    """Where the training stands.

    Steps done of all (counted in batches), rows trained on and the passed time (seconds) of this process, and how much
    of it the loop waited for data; the last step's learning rate and its batches: one, or one a process
    (`trainer.parallel`). Before the first step there is none.
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
        """The mean loss over the rows of the last step."""
        rows = sum(len(b.batch.rows) for b in self.batches)
        return sum(b.loss * len(b.batch.rows) for b in self.batches) / max(rows, 1)

    @property
    def rate(self) -> float:
        """Rows a second of this process's steps."""
        return self.rows / max(self.seconds, 1e-9)

    @property
    def waiting_share(self) -> float:
        """The share of the time in which the loop waited for data."""
        return self.waited / max(self.seconds, 1e-9)


class Callback:
    """What the loop calls; a hook overrides what it cares for."""

    def begin(self, moment: CallbackEvent) -> None:
        """Before the first step of this process (`moment.step` is not 0 for a resumed run)."""

    def step(self, moment: CallbackEvent) -> None:
        """After each step."""

    def end(self, moment: CallbackEvent) -> None:
        """After the last step, or when the loop is left by an error."""
