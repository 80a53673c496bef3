"""Scalars of a training as it runs (loss by domain, rows/s, waiting, learning rate), to TensorBoard and to MLflow."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from star_ctr.conf.contracts.encoded_row import OVERALL
from star_ctr.conf.errors import UserError
from star_ctr.model.training.callbacks import Callback, CallbackEvent


class Scalars(Callback):
    """Gathers what happened since the last time, and every `seconds` (and at the end) hands it to `write`.

    Losses are means over the rows of that time: `loss/<domain>` and `loss/overall`. `rows_per_second` and
    `waiting_share` are of that time too, `lr` is the last one.
    """

    def __init__(self, seconds: float = 5.0) -> None:
        self._seconds = seconds
        self._compute_losses: dict[str, tuple[float, int]] = {}
        self._from = CallbackEvent(0, 0)
        self._last = 0.0

    @abstractmethod
    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values at a step."""

    def begin(self, moment: CallbackEvent) -> None:
        """Start counting."""
        self._from, self._last = moment, time.monotonic()

    def step(self, moment: CallbackEvent) -> None:
        """Add a step; write if it is time."""
        for trained in moment.batches:
            n = len(trained.batch.rows)
            total, rows = self._compute_losses.get(trained.domain, (0.0, 0))
            self._compute_losses[trained.domain] = (total + n * trained.loss, rows + n)
        if time.monotonic() - self._last > self._seconds:
            self._flush(moment)

    def end(self, moment: CallbackEvent) -> None:
        """Write what is left."""
        if self._compute_losses:
            self._flush(moment)

    def _flush(self, moment: CallbackEvent) -> None:
        seconds = max(moment.seconds - self._from.seconds, 1e-9)
        values = {f"loss/{domain}": total / rows for domain, (total, rows) in self._compute_losses.items()}
        values[f"loss/{OVERALL}"] = sum(t for t, _ in self._compute_losses.values()) / sum(
            n for _, n in self._compute_losses.values()
        )
        values["rows_per_second"] = (moment.rows - self._from.rows) / seconds
        values["waiting_share"] = (moment.waited - self._from.waited) / seconds
        values["lr"] = moment.lr
        self.write(moment.step, values)
        self._compute_losses, self._from, self._last = {}, moment, time.monotonic()


class TensorBoard(Scalars):
    """Event files in a folder: `tensorboard --logdir` shows them.

    What an earlier training of the folder wrote from this one's first step on is hidden: of one that was broken off
    the curve goes on, of one that is made anew it begins again.
    """

    def __init__(self, folder: Path, seconds: float = 5.0) -> None:
        super().__init__(seconds)
        self._folder = folder

    def begin(self, moment: CallbackEvent) -> None:
        """Open the file."""
        super().begin(moment)
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self._folder), purge_step=moment.step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One point of each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def end(self, moment: CallbackEvent) -> None:
        """Write what is left and close the file."""
        super().end(moment)
        self._writer.close()


class MLflow(Scalars):
    """A run of an MLflow experiment, at the address in MLFLOW_TRACKING_URI; a resumed training goes on in its run."""

    def __init__(self, experiment: str, run: str, settings: Mapping[str, Any], seconds: float = 5.0) -> None:
        super().__init__(seconds)
        try:
            import mlflow
        except ImportError:
            raise UserError(
                "MLFLOW_TRACKING_URI is set, and MLflow is not installed: pip install 'star-ctr[mlflow]', or unset it"
            ) from None

        self._mlflow, self._experiment, self._run, self._settings = mlflow, experiment, run, dict(settings)

    def begin(self, moment: CallbackEvent) -> None:
        """Start the run, or go on in it."""
        super().begin(moment)
        mlflow = self._mlflow
        mlflow.set_experiment(self._experiment)
        earlier = mlflow.search_runs(filter_string=f"tags.run_id = '{self._run}'", output_format="list", max_results=1)
        if earlier:
            mlflow.start_run(run_id=earlier[0].info.run_id)
        else:
            mlflow.start_run(run_name=self._run, tags={"run_id": self._run})
            mlflow.log_params(self._settings)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One point of each metric."""
        self._mlflow.log_metrics(dict(values), step=step)

    def end(self, moment: CallbackEvent) -> None:
        """Write what is left and end the run."""
        super().end(moment)
        self._mlflow.end_run("FINISHED" if moment.step == moment.steps else "KILLED")
