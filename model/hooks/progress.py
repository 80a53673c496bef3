"""The concerns of the training loop that are not training: each a hook, told at every moment it may care for.

Moments: `begin` before the first step, `step` after each, `end` after the last.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


@dataclass
class Moment:
    """Where the training stands: steps done of all, rows trained on, and the last batch's domain and loss."""

    step: int
    steps: int
    rows: int
    domain: str
    loss: float


class Hook(Protocol):
    """What the loop calls."""

    def begin(self, moment: Moment) -> None:
        """Before the first step of this process (`moment.step` is not 0 for a resumed run)."""

    def step(self, moment: Moment) -> None:
        """After each step."""

    def end(self, moment: Moment) -> None:
        """After the last step, or when the loop is left by an error."""


class ProgressBar:
    """A bar with the loss (a running mean), rows/s and the time left."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("loss {task.fields[loss]:.4f}  {task.fields[rate]:,.0f} rows/s"),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
        )
        self._task = self._bar.add_task(title, total=None, loss=0.0, rate=0.0)
        self._loss: float | None = None
        self._began, self._rows = 0.0, 0

    def begin(self, moment: Moment) -> None:
        """Show the bar."""
        self._began, self._rows = time.monotonic(), moment.rows
        self._bar.update(self._task, total=moment.steps, completed=moment.step)
        self._bar.start()

    def step(self, moment: Moment) -> None:
        """Move it."""
        self._loss = moment.loss if self._loss is None else 0.97 * self._loss + 0.03 * moment.loss
        seconds = max(time.monotonic() - self._began, 1e-9)
        rate = (moment.rows - self._rows) / seconds
        self._bar.update(self._task, completed=moment.step, loss=self._loss, rate=rate)

    def end(self, moment: Moment) -> None:
        """Leave it as it stands."""
        self._bar.stop()


class Curve:
    """The training curve for the record: mean loss over each of at most `points` stretches of steps."""

    def __init__(self, points: int = 100) -> None:
        self.points = points
        self.curve: list[tuple[int, float]] = []
        self._sum, self._n = 0.0, 0

    def begin(self, moment: Moment) -> None:
        """Nothing to do."""

    def step(self, moment: Moment) -> None:
        """Add a step, and a point at the end of each stretch."""
        self._sum, self._n = self._sum + moment.loss, self._n + 1
        stretch = max(1, moment.steps // self.points)
        if moment.step % stretch == 0 or moment.step == moment.steps:
            self.curve.append((moment.step, round(self._sum / self._n, 6)))
            self._sum, self._n = 0.0, 0

    def end(self, moment: Moment) -> None:
        """Nothing to do."""
