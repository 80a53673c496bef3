"""The comparison: models x nights x seeds on one set of feature tables, resumable, then the paper's tables of them.

Spark makes the tables and the metrics; the trainings in between run side by side, a process each, on one thread
each: small batches leave a second core nothing to do. What was trained and scored before is not done again.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from star_ctr.conf.contracts.dates import list_window_days
from star_ctr.conf.contracts.encoded_row import domain_sort_key
from star_ctr.conf.contracts.run_id import hash_features_settings, hash_split_settings
from star_ctr.conf.errors import DataError, UserError
from star_ctr.conf.load import load
from star_ctr.conf.settings.compare import Comparison, Plan
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs import features, ingest, split, train
from star_ctr.jobs.io.split_commits import find_split
from star_ctr.jobs.io.split_inputs import is_encoded_for
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.registry.attempts import read_result
from star_ctr.jobs.tools import import_runs, import_scores
from star_ctr.model import offline
from star_ctr.model.cost import Cost, measure_costs
from star_ctr.model.distributed.process_lifetime import end_with_parent
from star_ctr.model.distributed.threads import count_cores
from star_ctr.model.training.job import TrainingJob
from star_ctr.workflows.terminal import err, show_step

ALONE = ["trainer.threads=1", "trainer.processes=1"]


@dataclass(frozen=True)
class Trial:
    """One training of the comparison."""

    model: str
    settings: Settings
    job: TrainingJob


@dataclass(frozen=True)
class Results:
    """All that the tables are made of; `rows` are those of `metrics`, each with the model's name here as `compared`."""

    name: str
    comparison: Comparison
    rows: list[dict[str, Any]]
    shares: list[dict[str, Any]]
    costs: dict[str, Cost]
    seconds: dict[str, float]


def make_plans(models: str | None, nights: str | None, seeds: int) -> list[Plan]:
    """The plan that a command line asks for; none where it says neither models nor nights."""
    if models is None and nights is None:
        return []
    plan: dict[str, Any] = {"seeds": seeds}
    plan |= {"models": models.replace(",", " ").split()} if models else {}
    plan |= {"nights": nights.replace(",", " ").split()} if nights else {}
    try:
        return [Plan.model_validate(plan)]
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"--{first['loc'][0]}: {first['msg'].removeprefix('Value error, ')}") from None


def _set_plans(comparison: Comparison, plans: Sequence[Plan]) -> Comparison:
    """The configuration's comparison with other plans; `UserError` for a model that it does not know."""
    try:
        return Comparison.model_validate({**comparison.model_dump(), "plans": [p.model_dump() for p in plans]})
    except ValidationError as error:
        raise UserError(f"--{error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def parse_scores(scores: Sequence[str]) -> list[tuple[str, str]]:
    """(name, table) of each NAME=TABLE."""
    pairs = [s.partition("=") for s in scores]
    for name, _, table in pairs:
        if not (name and table):
            raise UserError(f"--scores {name}: write NAME=TABLE, as in --scores lightgbm=build/lightgbm.parquet")
    return [(name, table) for name, _, table in pairs]


def run(
    conf: str,
    overrides: Sequence[str],
    spark: SparkSession,
    plans: Sequence[Plan] = (),
    scores: Sequence[tuple[str, str]] = (),
    jobs: int | None = None,
    measure: bool = True,
) -> Results:
    """Train and judge everything that the plans ask for (the configuration's, if none is given).

    `scores`: (name, table) of outside models' scores of the same rows. `jobs`: trainings at a time.
    `measure`: whether to measure what each model costs.
    """
    settings = load(conf, overrides)
    store = WarehouseTables(settings, spark)
    plans = plans or settings.compare.plans
    newest = [ingest.find_newest_day(settings, spark)] if any(not plan.nights for plan in plans) else []
    plans = [plan if plan.nights else plan.model_copy(update={"nights": newest}) for plan in plans]
    comparison = _set_plans(settings.compare, plans)
    nights = sorted({night for plan in plans for night in plan.nights})
    # The newest first: its window may hold all that the others need.
    for night in reversed(nights):
        prepare_night(settings, spark, store, night)
    pins = {night: train.pin_versions(store, night) for night in nights}
    trials = []
    for model, night, seed in comparison.runs():
        own = load(conf, [*overrides, *comparison.overrides(model), f"trainer.seed={seed}", *ALONE])
        if hash_split_settings(own) != hash_split_settings(settings):
            raise UserError(f"compare: `{model}` would need a split of its own; only `model` and `trainer` may differ")
        trials.append(Trial(model, own, train.make_job(own, store, night, pins[night])))
    # Two names may stand for the same settings: that is one run.
    once = list({t.job.run_id: t for t in trials}.values())
    train_all(once, jobs or count_cores())
    trained = [(t.settings, t.job) for t in once]
    with _make_progress() as progress:
        task = progress.add_task("into the tables", total=len(once))
        for done in import_runs.run(store, trained):
            progress.update(task, completed=done)
    rows_of: dict[str, list[dict[str, Any]]] = {}
    for row in import_runs.read_imported_metrics(store, trained):
        rows_of.setdefault(row["run_id"], []).append(row)
    rows = [{**row, "compared": t.model} for t in trials for row in rows_of[t.job.run_id]]
    for name, table in scores:
        with show_step(name, spark.sparkContext):
            rows += [{**r, "compared": name} for r in import_scores.run(store, name, table, _find_references(trials))]
    last = {t.model: t.job for t in trials if t.job.ds == nights[-1]}
    measured = {}
    if measure:
        with show_step("cost", None):
            measured = measure_costs(last)
    seconds: dict[str, list[float]] = {}
    for t in trials:
        seconds.setdefault(t.model, []).append(read_result(t.job)["seconds"])
    means = {model: sum(values) / len(values) for model, values in seconds.items()}
    return Results(settings.name, comparison, rows, _count_shares(store, next(iter(last.values()))), measured, means)


def prepare_night(settings: Settings, spark: SparkSession, store: WarehouseTables, night: str) -> None:
    """Make a night's split, and the features that it needs, as far as they are not there by the settings at hand."""
    found = find_split(store.warehouse.table("split"), night)
    if found is not None and is_encoded_for(settings, night, found[1]):
        return
    steps: dict[str, Any] = {"ingest": ingest.run, "features": features.run, "split": split.run}
    if _has_features(settings, store, night):
        steps = {"split": split.run}
    for name, action in steps.items():
        with show_step(f"{name} {night}", spark.sparkContext):
            action(settings, spark, night)


def _has_features(settings: Settings, store: WarehouseTables, night: str) -> bool:
    """Whether `features` holds the night and all days of its window that were ingested, by the settings at hand."""
    if not (store.exists("features") and store.exists("impressions")):
        return False
    needed = set(list_window_days(settings, night))
    made = store.read("features").where(F.col("settings") == hash_features_settings(settings))
    there = {r.ds for r in made.select("ds").distinct().collect()}
    return night in there and needed.intersection(store.days("impressions")) <= there


def train_all(trials: Sequence[Trial], jobs: int) -> None:
    """Train and score what is not done yet, `jobs` at a time; `DataError` at the end for those that failed."""
    waiting = [t for t in trials if not offline.is_trained(t.job)]
    failed: list[str] = []
    if not waiting:
        err.print(f"All {len(trials)} trainings were done before.")
        return
    # A fresh interpreter: a fork of a process in which Spark's and torch's threads run may hang.
    spawn = multiprocessing.get_context("spawn")
    size = min(jobs, max(len(waiting), 1))
    pool = ProcessPoolExecutor(size, mp_context=spawn, initializer=end_with_parent, initargs=(os.getpid(),))
    with pool, _make_progress() as progress:
        task = progress.add_task("training", total=len(trials), completed=len(trials) - len(waiting))
        running = {pool.submit(offline.train_and_score, t.job): t for t in waiting}
        try:
            for future in as_completed(running):
                t = running[future]
                error = future.exception()
                told = f"{t.model} {t.job.ds} seed {t.job.trainer.seed}"
                if error is None:
                    progress.console.print(f"[green]✓[/] {told:<40} {future.result():6.1f} s")
                else:
                    failed.append(told)
                    progress.console.print(f"[red]✗[/] {told}: {error}", highlight=False)
                progress.advance(task)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failed:
        raise DataError(
            f"compare: {len(failed)} of {len(trials)} trainings failed ({', '.join(failed[:5])} …); "
            "their words stand above, what succeeded is kept: run it again"
        )


def _make_progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=err,
    )


def _find_references(trials: Sequence[Trial]) -> dict[str, str]:
    """For each night a run that scored its rows."""
    return {t.job.ds: t.job.run_id for t in trials}


def _count_shares(store: WarehouseTables, job: TrainingJob) -> list[dict[str, Any]]:
    """Rows and clicks of each domain in a night's training days, as Table 1 has them."""
    rows = store.read("split", job.versions["split"]).where((F.col("ds") == job.ds) & (F.col("part") == "train"))
    found = rows.groupBy("domain").agg(F.count("*").alias("rows"), F.sum("label").alias("clicks")).collect()
    return sorted((r.asDict() for r in found), key=lambda r: domain_sort_key(r["domain"]))
