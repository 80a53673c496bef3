"""The progress bar of a training."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from star_ctr.model.training.callbacks import Callback, CallbackEvent


class ProgressBar(Callback):
    """A bar with the loss (a running mean), rows/s, the share of time spent waiting for data, and the time left."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        words = "loss {task.fields[loss]:.4f}  {task.fields[rate]:,.0f} rows/s  waiting {task.fields[waiting]:.0%}"
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn(words),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
        )
        self._task = self._bar.add_task(title, total=None, loss=0.0, rate=0.0, waiting=0.0)
        self._loss: float | None = None

    def begin(self, moment: CallbackEvent) -> None:
        """Show the bar."""
        self._bar.update(self._task, total=moment.steps, completed=moment.step)
        self._bar.start()

    def step(self, moment: CallbackEvent) -> None:
        """Move it."""
        self._loss = moment.loss if self._loss is None else 0.97 * self._loss + 0.03 * moment.loss
        self._bar.update(
            self._task, completed=moment.step, loss=self._loss, rate=moment.rate, waiting=moment.waiting_share
        )

    def end(self, moment: CallbackEvent) -> None:
        """Leave it as it stands."""
        self._bar.stop()
