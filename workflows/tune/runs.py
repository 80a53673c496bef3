"""Training runs of a search: each is for one night and seed, and keeps only the metrics.

A finished run is a JSON file in the folder of the study, so that no process trains it again. A
process holds a lock while it trains a run; the operating system releases it if the process is killed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from star_ctr.conf.contracts.fingerprint import hash_json
from star_ctr.conf.files import remove_folder, write_json
from star_ctr.conf.settings.root import Settings
from star_ctr.features.evaluation.array_metrics import compute_array_metrics
from star_ctr.jobs.registry.job_definition import PinnedVersions, define_job
from star_ctr.model.offline import SCORES, train_and_score
from star_ctr.workflows.training_pool import EXPERIMENT_SETTINGS
from star_ctr.workflows.tune.space import change_settings

_WAIT_SECONDS = 1.0
"""How long a process waits for another one that trains the same run."""


class Pair(NamedTuple):
    """A night and a seed; settings are compared on the same pairs."""

    night: str
    seed: int

    def __str__(self) -> str:
        """Return the pair for messages and as a key."""
        return f"{self.night} seed {self.seed}"


@dataclass(frozen=True)
class Run:
    """A training run of changed settings.

    Attributes:
        values: The changed settings, by dotted key.
        pair: The night and the seed.
        keeps_scores: Whether the scores of the test rows are kept, for a bootstrap over users.
    """

    values: Mapping[str, Any]
    pair: Pair
    keeps_scores: bool = False

    @property
    def key(self) -> str:
        """The name of the run's files."""
        return hash_json([self.values, self.pair], 16)


@dataclass(frozen=True)
class RunMetrics:
    """The metrics of a training run on the test rows of its night.

    Attributes:
        auc: AUC of all rows; None if undefined.
        gauc: GAUC of all rows; None if undefined.
        log_loss: Log loss of all rows.
        clicks: Number of clicks.
        predicted: Sum of the scores.
        seconds: Training time in seconds.
        domains: Rows, clicks and predicted clicks of each domain.
    """

    auc: float | None
    gauc: float | None
    log_loss: float
    clicks: float
    predicted: float
    seconds: float
    domains: dict[str, tuple[int, int, float]] = field(default_factory=dict)


class Runner(Protocol):
    """Trains a run. It is sent to other processes, so it must be picklable."""

    def __call__(self, run: Run, scores: Path | None) -> RunMetrics:
        """Train a run.

        Args:
            run: The run.
            scores: The Parquet file to write the scores of the test rows to; None to keep none.
        """


@dataclass(frozen=True)
class Trainer:
    """The runner of a study on a data set.

    Attributes:
        settings: The current settings, with the recipe.
        pins: The pinned inputs of each night.
        folder: The folder of unfinished runs.
    """

    settings: Settings
    pins: Mapping[str, PinnedVersions]
    folder: Path

    def __call__(self, run: Run, scores: Path | None) -> RunMetrics:
        """Train a run and score the test rows of its night. See `Runner`."""
        logging.getLogger("star_ctr").setLevel(logging.ERROR)  # warnings would break the progress bar
        settings = change_settings(self.settings, {**run.values, **EXPERIMENT_SETTINGS, "trainer.seed": run.pair.seed})
        job = define_job(settings, run.pair.night, self.pins[run.pair.night])
        job = job.for_attempt(1, self.folder / run.key)
        try:
            seconds = train_and_score(job)
            return _measure(job.path / SCORES, seconds, scores)
        finally:
            remove_folder(job.path)


def _measure(file: Path, seconds: float, kept: Path | None) -> RunMetrics:
    """Compute the metrics of the test rows, and keep their scores."""
    rows = pq.read_table(file, columns=["impression_id", "user_id", "domain", "label", "score"])
    user = rows["user_id"].to_numpy()
    label, score = rows["label"].to_numpy().astype(np.float64), rows["score"].to_numpy()
    names, domain = np.unique(rows["domain"].to_numpy(), return_inverse=True)
    counts, clicks, predicted = (np.bincount(domain, weights) for weights in (None, label, score))
    metrics = compute_array_metrics(user, label, score)
    if kept:
        pq.write_table(rows.sort_by("impression_id").drop(["impression_id", "domain"]), kept)
    return RunMetrics(
        auc=metrics.auc,
        gauc=metrics.gauc,
        log_loss=metrics.log_loss,
        clicks=float(metrics.clicks),
        predicted=metrics.predicted,
        seconds=seconds,
        domains={
            str(name): (int(n), int(c), float(p))
            for name, n, c, p in zip(names, counts, clicks, predicted, strict=True)
        },
    )


class RunStore:
    """The finished runs of a study.

    Args:
        folder: The folder of the study.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "runs"
        self.folder.mkdir(parents=True, exist_ok=True)

    def read(self, run: Run) -> RunMetrics | None:
        """Return the metrics of a finished run; None if it is not finished."""
        try:
            text = self._file(run).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        if run.keeps_scores and not self.get_scores(run).exists():
            return None
        return RunMetrics(**json.loads(text)["metrics"])

    def get_scores(self, run: Run) -> Path:
        """Return the file with the scores of a run; it may not exist."""
        return self.folder / f"{run.key}.parquet"

    def train(self, run: Run, runner: Runner) -> RunMetrics | None:
        """Train a run, unless it is finished.

        Args:
            run: The run.
            runner: Trains it.

        Returns:
            The metrics; None if another process is training the run.
        """
        try:
            with FileLock(self.folder / f"{run.key}.lock").acquire(timeout=_WAIT_SECONDS):
                if (found := self.read(run)) is not None:
                    return found
                metrics = runner(run, self.get_scores(run) if run.keeps_scores else None)
                described = {"values": dict(run.values), "night": run.pair.night, "seed": run.pair.seed}
                write_json(self._file(run), {**described, "metrics": asdict(metrics)})
                return metrics
        except Timeout:
            return None

    def _file(self, run: Run) -> Path:
        return self.folder / f"{run.key}.json"


def get_metric(metrics: RunMetrics, objective: str) -> float:
    """Return a metric so that higher is better; NaN if it is undefined."""
    value = getattr(metrics, objective)
    if value is None:
        return float("nan")
    return -float(value) if objective == "log_loss" else float(value)


def compute_pcoc(runs: Sequence[RunMetrics]) -> float:
    """Return the pooled PCOC of some runs: predicted clicks over clicks; NaN without clicks."""
    clicks = sum(run.clicks for run in runs)
    return sum(run.predicted for run in runs) / clicks if clicks else float("nan")
