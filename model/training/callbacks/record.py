"""Callbacks that compute parts of the training record: loss curve, shuffle quality, time and warm start.

Checkpoints contain their state, so that the record of a resumed run describes the whole run.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any

import numpy as np

from star_ctr.conf.contracts.domains import MIXED
from star_ctr.model.data.batch_order import DataFile
from star_ctr.model.training.callbacks import Callback, CallbackEvent


class Recorder(Callback):
    """Base class of callbacks with a state that is saved in checkpoints.

    Attributes:
        name: Key of the state in checkpoints.
    """

    name: str

    def state_dict(self) -> Any:
        """Return the state as JSON values."""
        raise NotImplementedError

    def load_state_dict(self, state: Any) -> None:
        """Load the state that `state_dict` returned."""
        raise NotImplementedError


class TimeSpent(Recorder):
    """The rows, the time and the waiting time of the whole training run.

    Attributes:
        total: The sums over this process and the earlier ones from which it resumed.
    """

    name = "spent"

    def __init__(self) -> None:
        self.total = self._earlier = CallbackEvent(0, 0)

    def step(self, event: CallbackEvent) -> None:
        """Add the time of this process to that of earlier ones."""
        earlier = self._earlier
        self.total = CallbackEvent(
            event.step,
            event.steps,
            earlier.rows + event.rows,
            earlier.seconds + event.seconds,
            earlier.waited + event.waited,
        )

    def state_dict(self) -> tuple[int, float, float]:
        """Return the rows, seconds, and seconds of waiting so far."""
        return self.total.rows, self.total.seconds, self.total.waited

    def load_state_dict(self, state: Sequence[float]) -> None:
        """Load the state that `state_dict` returned."""
        rows, seconds, waited = state
        self.total = self._earlier = CallbackEvent(0, 0, int(rows), seconds, waited)


class StartRecord(Recorder):
    """The report of the warm start.

    Attributes:
        report: The result of `warm_start.start_from_run`; None if training started from scratch.
    """

    name = "start"

    def __init__(self) -> None:
        self.report: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any] | None:
        """Return the report."""
        return self.report

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Load the report."""
        self.report = state


class LossCurve(Recorder):
    """The training curve: the mean loss over consecutive intervals of steps.

    Attributes:
        points: Minimum number of points of a run with at least as many steps. The curve has less than twice as
            many.
        curve: The last step and the mean loss of each interval.
        clicks: Total weight of the clicked rows trained on so far, by domain number; without weights, their number.
        weights: Total weight of all rows trained on so far, by domain number.
    """

    name = "curve"

    def __init__(self, points: int = 100) -> None:
        self.points = points
        self.curve: list[tuple[int, float]] = []
        self.clicks: dict[int, float] = {}
        self.weights: dict[int, float] = {}
        self._sum, self._n = 0.0, 0
        self._last_sum, self._last_weight = 0.0, 0.0

    @property
    def baseline_loss(self) -> float | None:
        """Log loss of always predicting the mean CTR of the row's domain; None before the first step."""
        total = sum(self.weights.values())
        entropies = (w * _compute_entropy(self.clicks.get(p, 0) / w) for p, w in self.weights.items())
        return round(sum(entropies) / total, 6) if total else None

    @property
    def last_loss(self) -> float | None:
        """Mean loss over the rows of the last quarter of the steps; weighted, if they have weights. None before it."""
        return round(self._last_sum / self._last_weight, 6) if self._last_weight else None

    def step(self, event: CallbackEvent) -> None:
        """Add the loss of a step, and a point to the curve at the end of each interval."""
        for result in event.batches:
            rows = result.batch.rows
            label = rows.label if rows.weight is None else rows.label.astype(np.float64) * rows.weight
            for sums, values in ((self.clicks, label), (self.weights, rows.weight)):
                by_domain = np.bincount(rows.domain, values)
                for p in np.flatnonzero(by_domain).tolist():
                    sums[p] = sums.get(p, 0.0) + float(by_domain[p])
            if event.step > 0.75 * event.steps:
                self._last_sum += result.loss * rows.total_weight
                self._last_weight += rows.total_weight
        n = len(event.batches)
        self._sum, self._n = self._sum + event.loss * n, self._n + n
        interval = max(1, event.steps // self.points)
        if event.step % interval < n or event.step == event.steps:
            self.curve.append((event.step, round(self._sum / self._n, 6)))
            self._sum, self._n = 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the curve, the sum of the current interval, the sums of the last quarter, the clicks and weights."""
        return {
            "curve": self.curve,
            "sum": self._sum,
            "n": self._n,
            "last": [self._last_sum, self._last_weight],
            "clicks": list(self.clicks.items()),
            "weights": list(self.weights.items()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state that `state_dict` returned."""
        self.curve = [(int(step), float(loss)) for step, loss in state["curve"]]
        self._sum, self._n = state["sum"], state["n"]
        self._last_sum, self._last_weight = state["last"]
        self.clicks, self.weights = ({int(p): w for p, w in state[name]} for name in ("clicks", "weights"))


def _compute_entropy(rate: float) -> float:
    """Return the log loss of always predicting the rate."""
    return -rate * log(rate) - (1 - rate) * log(1 - rate) if 0 < rate < 1 else 0.0


class ShuffleQuality(Recorder):
    """How well batches mix the rows of different files: 1 for a full shuffle, 0 if each batch is from one file.

    Among all pairs of rows in a batch, the share of pairs from two different files is divided by its expected value in
    a full shuffle of the domain. Batches are weighted by their number of pairs. Domains with a single file do not
    count.
    """

    name = "shuffle_quality"

    def __init__(self, files: Sequence[DataFile], mixed: bool) -> None:
        """Compute the expected shares.

        Args:
            files: Files of the training rows.
            mixed: Batches mix the rows of all domains.
        """
        sizes: dict[int, list[int]] = {}
        for file in files:
            sizes.setdefault(MIXED if mixed else file.domain, []).append(file.rows)
        self._expected = {p: 1.0 - _compute_same_chance(np.array(n)) for p, n in sizes.items()}
        self._pairs, self._expected_pairs = 0.0, 0.0

    def step(self, event: CallbackEvent) -> None:
        """Count the pairs of rows from different files in the batches of the step."""
        for batch in (b.batch for b in event.batches):
            n, expected = len(batch.file), self._expected[batch.domain]
            if n > 1 and expected > 0:
                pairs = n * (n - 1) / 2
                self._pairs += pairs * (1.0 - _compute_same_chance(np.bincount(batch.file)))
                self._expected_pairs += pairs * expected

    def state_dict(self) -> tuple[float, float]:
        """Return the number of pairs from different files so far, and its expected value in a full shuffle."""
        return self._pairs, self._expected_pairs

    def load_state_dict(self, state: Sequence[float]) -> None:
        """Load the state that `state_dict` returned."""
        self._pairs, self._expected_pairs = state

    @property
    def found(self) -> float | None:
        """Shuffle quality; None if no domain has two files."""
        return round(self._pairs / self._expected_pairs, 4) if self._expected_pairs else None


def _compute_same_chance(counts: np.ndarray[Any, Any]) -> float:
    """Return the probability that two rows, drawn without replacement, are from the same file.

    Args:
        counts: Number of rows of each file.
    """
    n = int(counts.sum())
    return float((counts * (counts - 1)).sum()) / (n * (n - 1)) if n > 1 else 1.0
