"""A callback that shows a progress bar."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from star_ctr.model.training.callbacks import Callback, CallbackEvent


class ProgressBar(Callback):
    """A progress bar with the loss, rows/s, the share of time spent waiting for data, and the remaining time.

    The loss is an exponential moving average over the steps.
    """

    def __init__(self, title: str, console: Console | None = None) -> None:
        """Create the bar.

        Args:
            title: Text in front of the bar.
            console: Console to write to; standard error by default.
        """
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

    def begin(self, event: CallbackEvent) -> None:
        """Show the bar."""
        self._bar.update(self._task, total=event.steps, completed=event.step)
        self._bar.start()

    def step(self, event: CallbackEvent) -> None:
        """Update the bar."""
        self._loss = event.loss if self._loss is None else 0.97 * self._loss + 0.03 * event.loss
        self._bar.update(
            self._task, completed=event.step, loss=self._loss, rate=event.rate, waiting=event.waiting_share
        )

    def end(self, event: CallbackEvent) -> None:
        """Stop the bar, and leave its last state on the console."""
        self._bar.stop()
