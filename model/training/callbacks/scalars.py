"""Callbacks that write scalars during a training run (loss by domain, rows/s, waiting, learning rate).

`TensorBoard` writes event files, and `MLflow` writes to a tracking server.
"""

from __future__ import annotations

import tempfile
import time
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from star_ctr.conf.contracts.domains import OVERALL
from star_ctr.conf.errors import UserError
from star_ctr.conf.files import copy_file, is_remote, remove_folder
from star_ctr.model.training.callbacks import Callback, CallbackEvent


class Scalars(Callback):
    """Base class of callbacks that write scalars every few seconds and at the end of the training run.

    `loss/<domain>` and `loss/overall` are means over the rows since the last write. `rows_per_second` and
    `waiting_share` cover the same interval. `lr` is the learning rate of the last step.
    """

    def __init__(self, seconds: float = 5.0) -> None:
        """Create the callback.

        Args:
            seconds: Minimum number of seconds between writes.
        """
        self._seconds = seconds
        self._losses: dict[str, tuple[float, float]] = {}
        """Sum of the losses, and total weight of the rows, since the last write, by domain."""
        self._last_event = CallbackEvent(0, 0)
        self._last_write = 0.0

    @abstractmethod
    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars.

        Args:
            step: Number of the step.
            values: Scalars by name.
        """

    def begin(self, event: CallbackEvent) -> None:
        """Start the first interval."""
        self._last_event, self._last_write = event, time.monotonic()

    def step(self, event: CallbackEvent) -> None:
        """Add the losses of a step, and write scalars if they are due."""
        for result in event.batches:
            n = result.batch.rows.total_weight
            total, weight = self._losses.get(result.domain, (0.0, 0.0))
            self._losses[result.domain] = (total + n * result.loss, weight + n)
        if time.monotonic() - self._last_write > self._seconds:
            self._flush(event)

    def end(self, event: CallbackEvent) -> None:
        """Write the scalars of the steps since the last write."""
        if self._losses:
            self._flush(event)

    def _flush(self, event: CallbackEvent) -> None:
        """Write scalars, and start the next interval."""
        seconds = max(event.seconds - self._last_event.seconds, 1e-9)
        values = {f"loss/{domain}": total / weight for domain, (total, weight) in self._losses.items()}
        values[f"loss/{OVERALL}"] = sum(t for t, _ in self._losses.values()) / sum(n for _, n in self._losses.values())
        values["rows_per_second"] = (event.rows - self._last_event.rows) / seconds
        values["waiting_share"] = (event.waited - self._last_event.waited) / seconds
        values["lr"] = event.lr
        self.write(event.step, values)
        self._losses, self._last_event, self._last_write = {}, event, time.monotonic()


class TensorBoard(Scalars):
    """A callback that writes TensorBoard event files to a folder.

    Points of earlier training runs in the folder are hidden from the first step of this run on. The curve of a resumed
    run therefore continues, and that of a new run starts again.
    """

    def __init__(self, folder: Path, seconds: float = 5.0) -> None:
        """Create the callback.

        Args:
            folder: Folder of the event files, for `tensorboard --logdir`. In an object store, the files are written
                when training ends.
            seconds: Minimum number of seconds between writes.
        """
        super().__init__(seconds)
        self._folder = folder

    def begin(self, event: CallbackEvent) -> None:
        """Open an event file."""
        super().begin(event)
        from torch.utils.tensorboard import SummaryWriter

        # Event files grow, but objects of a store cannot: write local files, and copy them at the end.
        self._local = Path(tempfile.mkdtemp(prefix="star-ctr-")) if is_remote(self._folder) else self._folder
        self._writer = SummaryWriter(str(self._local), purge_step=event.step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write a point of each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def end(self, event: CallbackEvent) -> None:
        """Write the last scalars and close the event file."""
        super().end(event)
        self._writer.close()
        if self._local != self._folder:
            for file in self._local.iterdir():
                copy_file(str(file), self._folder / file.name)
            remove_folder(self._local)


class MLflow(Scalars):
    """A callback that writes to a run of an MLflow experiment, at the address in MLFLOW_TRACKING_URI.

    A resumed training run continues its MLflow run.
    """

    def __init__(self, experiment: str, run: str, settings: Mapping[str, Any], seconds: float = 5.0) -> None:
        """Create the callback.

        Args:
            experiment: Name of the experiment.
            run: Id of the training run; the name of the MLflow run, and its tag `run_id`.
            settings: Settings to log as parameters.
            seconds: Minimum number of seconds between writes.

        Raises:
            UserError: MLflow is not installed.
        """
        super().__init__(seconds)
        try:
            import mlflow
        except ImportError:
            raise UserError(
                "MLFLOW_TRACKING_URI is set, but MLflow is not installed; run `pip install 'star-ctr[mlflow]'`, "
                "or unset the variable"
            ) from None

        self._mlflow, self._experiment, self._run, self._settings = mlflow, experiment, run, dict(settings)

    def begin(self, event: CallbackEvent) -> None:
        """Start the MLflow run, or continue it if it exists."""
        super().begin(event)
        mlflow = self._mlflow
        mlflow.set_experiment(self._experiment)
        earlier = mlflow.search_runs(filter_string=f"tags.run_id = '{self._run}'", output_format="list", max_results=1)
        if earlier:
            mlflow.start_run(run_id=earlier[0].info.run_id)
        else:
            mlflow.start_run(run_name=self._run, tags={"run_id": self._run})
            mlflow.log_params(self._settings)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write a point of each metric."""
        self._mlflow.log_metrics(dict(values), step=step)

    def end(self, event: CallbackEvent) -> None:
        """Write the last scalars and end the MLflow run."""
        super().end(event)
        self._mlflow.end_run("FINISHED" if event.step == event.steps else "KILLED")
