"""Measurement of the cost of models: their parameters, and the time of a training step and of a prediction."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from star_ctr.model.data.batches import Batch, iter_epoch
from star_ctr.model.data.reader import Rows, concat_rows, list_live_files
from star_ctr.model.export import export
from star_ctr.model.parity_sample import read_encoded_rows
from star_ctr.model.predictor import Predictor
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.trainer import Trainer


@dataclass(frozen=True)
class Cost:
    """The cost of a model.

    Attributes:
        parameters: The number of parameters.
        batch_rows: The rows of the largest measured training batch.
        step_ms: The median time of a training step, including the optimizer, in milliseconds.
        predict_ms: The median time of predicting the test rows (2000 by default), in milliseconds.
    """

    parameters: int
    batch_rows: int
    step_ms: float
    predict_ms: float


def measure_in_turns(actions: Mapping[str, Callable[[int], object]], rounds: int, warm_up: int = 3) -> dict[str, float]:
    """Measure the time of several actions.

    Each round runs all actions once, so that a change of the machine's speed affects all of them.

    Args:
        actions: The actions by name. They are called with the number of the round.
        rounds: The number of measured rounds.
        warm_up: The number of rounds before the measured ones.

    Returns:
        The median time of each action in milliseconds.
    """
    times: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + warm_up):
        for name, action in actions.items():
            start = time.perf_counter()
            action(number)
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(t[warm_up:]) for name, t in times.items()}


def measure_costs(jobs: Mapping[str, TrainingJob], rounds: int = 30, predicted_rows: int = 2000) -> dict[str, Cost]:
    """Measure the cost of untrained models.

    Torch uses the number of threads that the last job sets; comparisons set `trainer.threads=1`.

    Args:
        jobs: The training jobs by name. Each model is measured with the first batches of its training data, and with
            test rows of all domains.
        rounds: The number of measured training steps and predictions.
        predicted_rows: The number of test rows of a prediction.

    Returns:
        The cost of each job's model.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainers, batches, steps, predictions = {}, {}, {}, {}
        for name, job in jobs.items():
            trainer = Trainer(job.model_copy(update={"folder": str(Path(folder) / name)}))
            trainers[name], batches[name] = trainer, _take_batches(trainer, rounds)
            steps[name] = _make_step(trainer, batches[name])
            export(trainer.model.eval(), job.model, job.layout, trainer.job.path)
            predictions[name] = _make_prediction(Predictor(trainer.job.path), _read_test_rows(job, predicted_rows))
        step_ms, predict_ms = measure_in_turns(steps, rounds), measure_in_turns(predictions, rounds)
    return {
        n: Cost(
            sum(p.numel() for p in trainers[n].model.parameters()),
            max(len(b.rows) for b in batches[n]),
            step_ms[n],
            predict_ms[n],
        )
        for n in jobs
    }


def _take_batches(trainer: Trainer, n: int) -> list[Batch]:
    t = trainer.settings
    batches = iter_epoch(trainer.files, trainer.job.layout, t.batch_size, t.data.window_rows, 0, 0, trainer.mixed)
    return list(islice(batches, n))


def _make_step(trainer: Trainer, batches: Sequence[Batch]) -> Callable[[int], object]:
    """Return the action of a training step; round k uses batch k modulo the number of batches."""
    return lambda k: trainer.train_step([batches[k % len(batches)]])


def _make_prediction(predictor: Predictor, rows: Rows) -> Callable[[int], object]:
    """Return the action of a prediction of `rows`."""
    return lambda _: predictor.predict(rows.ints, rows.floats, rows.domain)


def _read_test_rows(job: TrainingJob, n: int) -> Rows:
    """Read up to `n` test rows: the same number from the first file of each domain, or all rows of a smaller file."""
    files = list_live_files(job.split, job.versions["split"], job.test_partitions, job.layout)
    first = {f.domain: f for f in reversed(files)}
    return concat_rows([read_encoded_rows(f, job.layout, max(n // len(first), 1))[1] for f in first.values()])
