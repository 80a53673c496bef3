"""What a training leaves in its record: the curve, how well its rows were mixed, its time.

All of it goes into the checkpoints, so that the record of a resumed training tells of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from star_ctr.model.data.batch_order import MIXED, DataFile
from star_ctr.model.training.callbacks import Callback, CallbackEvent


class Recorder(Callback):
    """A hook that goes on where it was when a checkpoint was written."""

    name: str

    def state_dict(self) -> Any:
        """What it holds, as JSON can say it."""
        raise NotImplementedError

    def load_state_dict(self, state: Any) -> None:
        """Take what `state_dict` gave."""
        raise NotImplementedError


class TimeSpent(Recorder):
    """Rows, time and waiting for data, of this process and of those that it goes on from, in `total`."""

    name = "spent"

    def __init__(self) -> None:
        self.total = self._before = CallbackEvent(0, 0)

    def step(self, moment: CallbackEvent) -> None:
        """Add this process's to those before it."""
        b = self._before
        self.total = CallbackEvent(
            moment.step, moment.steps, b.rows + moment.rows, b.seconds + moment.seconds, b.waited + moment.waited
        )

    def state_dict(self) -> tuple[int, float, float]:
        """Rows, seconds, seconds waited."""
        return self.total.rows, self.total.seconds, self.total.waited

    def load_state_dict(self, state: Sequence[float]) -> None:
        """Go on from there."""
        rows, seconds, waited = state
        self.total = self._before = CallbackEvent(0, 0, int(rows), seconds, waited)


class StartRecord(Recorder):
    """What came over from the run that a training started from (`model.warm`); None where it started afresh."""

    name = "start"

    def __init__(self) -> None:
        self.report: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any] | None:
        """The report."""
        return self.report

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Take it."""
        self.report = state


class LossCurve(Recorder):
    """The training curve: mean loss over each of at most `points` stretches of steps."""

    name = "curve"

    def __init__(self, points: int = 100) -> None:
        self.points = points
        self.curve: list[tuple[int, float]] = []
        self._sum, self._n = 0.0, 0

    def step(self, moment: CallbackEvent) -> None:
        """Add a step, and a point at the end of each stretch."""
        n = len(moment.batches)
        self._sum, self._n = self._sum + moment.loss * n, self._n + n
        stretch = max(1, moment.steps // self.points)
        if moment.step % stretch < n or moment.step == moment.steps:
            self.curve.append((moment.step, round(self._sum / self._n, 6)))
            self._sum, self._n = 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        """The points so far and the stretch begun."""
        return {"curve": self.curve, "sum": self._sum, "n": self._n}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.curve = [(int(step), float(loss)) for step, loss in state["curve"]]
        self._sum, self._n = state["sum"], state["n"]


class ShuffleQuality(Recorder):
    """How well the rows of a batch are mixed: 1 as in a full shuffle of the domain, 0 where a batch is of one file.

    Of all pairs of rows in a batch, the share that stems from two files, over what that share would be if the batch
    were drawn from all of the domain's rows; batches weigh by their pairs. Domains of a single file say nothing.
    """

    name = "mixing"

    def __init__(self, files: Sequence[DataFile], mixed: bool) -> None:
        sizes: dict[int, list[int]] = {}
        for file in files:
            sizes.setdefault(MIXED if mixed else file.domain, []).append(file.rows)
        self._expected = {p: 1.0 - _compute_same_chance(np.array(n)) for p, n in sizes.items()}
        self._other, self._other_expected = 0.0, 0.0

    def step(self, moment: CallbackEvent) -> None:
        """Count the pairs of the last batches."""
        for batch in (b.batch for b in moment.batches):
            n, expected = len(batch.file), self._expected[batch.domain]
            if n > 1 and expected > 0:
                pairs = n * (n - 1) / 2
                self._other += pairs * (1.0 - _compute_same_chance(np.bincount(batch.file)))
                self._other_expected += pairs * expected

    def state_dict(self) -> tuple[float, float]:
        """The pairs counted so far, and as many as a full shuffle would have."""
        return self._other, self._other_expected

    def load_state_dict(self, state: Sequence[float]) -> None:
        """Go on from there."""
        self._other, self._other_expected = state

    @property
    def found(self) -> float | None:
        """The number; None where no domain has two files."""
        return round(self._other / self._other_expected, 4) if self._other_expected else None


def _compute_same_chance(counts: np.ndarray[Any, Any]) -> float:
    """The chance that two rows, drawn without putting the first one back, are of the same kind."""
    n = int(counts.sum())
    return float((counts * (counts - 1)).sum()) / (n * (n - 1)) if n > 1 else 1.0
