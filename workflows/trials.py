"""Training runs of an experiment, such as a comparison of models: prepare nights, train in parallel, import scores.

1. Spark writes the split of each night.
2. The runs are trained in parallel, each in its own process with one thread. With small batches, a second thread would
   not make a run faster.
3. Spark imports the scores of the runs and computes the metrics.

An experiment that was stopped can be run again: finished training runs are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from star_ctr.conf.contracts.domains import domain_sort_key
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs import features, ingest, split, train
from star_ctr.jobs.io.split_commits import find_split
from star_ctr.jobs.io.split_inputs import has_features, is_encoded_for
from star_ctr.jobs.io.split_rows import read_train_rows
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.registry.job_definition import PinnedVersions
from star_ctr.jobs.registry.recipes import ensure_recipe
from star_ctr.jobs.tools import import_runs
from star_ctr.model import offline
from star_ctr.model.training.job import TrainingJob
from star_ctr.workflows.terminal import show_step, stderr
from star_ctr.workflows.training_pool import EXPERIMENT_SETTINGS, open_pool

EXPERIMENT_OVERRIDES = [f"{key}={value}" for key, value in EXPERIMENT_SETTINGS.items()]
"""Overrides for all training runs of an experiment."""


@dataclass(frozen=True)
class Trial:
    """A training run of an experiment.

    Attributes:
        name: What is trained, for example the name of a compared model.
        settings: The settings of the run; they include the seed.
        job: The training job, for one night.
    """

    name: str
    settings: Settings
    job: TrainingJob


def prepare_night(settings: Settings, spark: SparkSession, store: WarehouseTables, night: str) -> None:
    """Write the split of a night if it does not exist for the given settings.

    Also runs `ingest` and `features` if features of the night or of its window are missing.

    Args:
        settings: The settings.
        spark: The Spark session.
        store: The tables of the warehouse.
        night: The night as YYYY-MM-DD.
    """
    found = find_split(store.warehouse.table("split"), night)
    if found is not None and is_encoded_for(settings, night, found[1]):
        return
    steps: dict[str, Any] = {"ingest": ingest.run, "features": features.run, "split": split.run}
    if has_features(settings, store, night):
        steps = {"split": split.run}
    for name, action in steps.items():
        with show_step(f"{name} {night}", spark.sparkContext):
            action(settings, spark, night)


def prepare_nights(
    settings: Settings, spark: SparkSession, nights: Sequence[str]
) -> tuple[Settings, dict[str, PinnedVersions]]:
    """Write the splits of some nights, choose the recipe, and pin the inputs of training runs.

    Args:
        settings: The settings.
        spark: The Spark session.
        nights: The nights as YYYY-MM-DD, in ascending order.

    Returns:
        The settings with the recipe, which is stored in the warehouse, and the pinned inputs of each night.
    """
    store = WarehouseTables(settings, spark)
    # Start with the newest night: its window may contain all days that the earlier nights need.
    prepare_night(settings, spark, store, nights[-1])
    # An earlier night opens labels of this window again, and the recipe does not count rows with open labels.
    settings = ensure_recipe(settings, spark, nights[-1])
    for night in reversed(nights[:-1]):
        prepare_night(settings, spark, store, night)
    return settings, {night: train.pin_versions(store, night) for night in nights}


def train_all(command: str, trials: Sequence[Trial], jobs: int) -> None:
    """Train and score all trials that are not finished.

    Args:
        command: The name of the command, for error messages.
        trials: The trials, without repeated runs.
        jobs: The maximum number of parallel training runs.

    Raises:
        DataError: Training runs failed; raised after all others have finished.
    """
    waiting = [t for t in trials if not offline.is_trained(t.job)]
    failed: list[str] = []
    if not waiting:
        stderr.print(f"All {len(trials)} training runs were already finished.")
        return
    with open_pool(min(jobs, len(waiting))) as pool, _make_progress() as progress:
        task = progress.add_task("training", total=len(trials), completed=len(trials) - len(waiting))
        running = {pool.submit(offline.train_and_score, t.job): t for t in waiting}
        for future in as_completed(running):
            t = running[future]
            error = future.exception()
            label = f"{t.name} {t.job.ds} seed {t.job.trainer.seed}"
            if error is None:
                progress.console.print(f"[green]✓[/] {label:<40} {future.result():6.1f} s")
            else:
                failed.append(label)
                progress.console.print(f"[red]✗[/] {label}: {error}", highlight=False)
            progress.advance(task)
    if failed:
        raise DataError(
            f"{command}: {len(failed)} of {len(trials)} training runs failed, among them {', '.join(failed[:5])}; "
            "their errors are printed above. Finished training runs are kept: run the same command again"
        )


def import_all(store: WarehouseTables, trials: Sequence[Trial]) -> dict[str, list[dict[str, Any]]]:
    """Import the scores of trained trials that have not been imported yet.

    Args:
        store: The tables of the warehouse.
        trials: The trials, without repeated runs.

    Returns:
        The rows of the table `metrics` of each trial, by run id.
    """
    trained = [(t.settings, t.job) for t in trials]
    with _make_progress() as progress:
        task = progress.add_task("importing", total=len(trained))
        for done in import_runs.run(store, trained):
            progress.update(task, completed=done)
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in import_runs.read_imported_metrics(store, trained):
        rows.setdefault(row["run_id"], []).append(row)
    return rows


def count_training_rows(store: WarehouseTables, job: TrainingJob) -> list[dict[str, Any]]:
    """Count the training rows of a night, including those that the job does not train on.

    Args:
        store: The tables of the warehouse.
        job: A job of the night.

    Returns:
        `rows` and `clicks` by `domain`.
    """
    sums = F.count("*").alias("rows"), F.sum("label").alias("clicks")
    counts = read_train_rows(store, job).groupBy("domain").agg(*sums).collect()
    return sorted((r.asDict() for r in counts), key=lambda r: domain_sort_key(r["domain"]))


def _make_progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=stderr,
    )
