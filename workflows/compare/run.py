"""Comparison of models: train each model for each night with each seed, on one set of feature tables.

A comparison that was stopped can be run again: finished training runs are kept (see `trials`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pyspark.sql import SparkSession

from star_ctr.conf.contracts.run_id import hash_split_settings
from star_ctr.conf.errors import UserError
from star_ctr.conf.load import load
from star_ctr.conf.settings.compare import Comparison, Plan
from star_ctr.jobs import train
from star_ctr.jobs.io.newest_day import find_newest_day
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.registry.attempts import read_result
from star_ctr.jobs.tools import import_scores
from star_ctr.model.cost import Cost, measure_costs
from star_ctr.model.distributed.threads import count_cores
from star_ctr.workflows.terminal import show_step
from star_ctr.workflows.trials import (
    EXPERIMENT_OVERRIDES,
    Trial,
    count_training_rows,
    import_all,
    prepare_nights,
    train_all,
)


@dataclass(frozen=True)
class Results:
    """The results of a comparison.

    Attributes:
        name: The name of the configuration.
        comparison: The comparison with the plans that were run.
        rows: Rows of the table `metrics`, with the name of the model as `compared`.
        shares: Rows and clicks of each domain in the training days of the last night: `domain`, `rows`, `clicks`.
        costs: The cost of each model; empty if it was not measured.
        seconds: The mean training time of each model, in seconds.
    """

    name: str
    comparison: Comparison
    rows: list[dict[str, Any]]
    shares: list[dict[str, Any]]
    costs: dict[str, Cost]
    seconds: dict[str, float]


def make_plans(models: str | None, nights: str | None, seeds: int | None) -> list[Plan]:
    """Return the plan that the options of the command line define.

    Args:
        models: Names of models, separated by commas or spaces.
        nights: Nights as YYYY-MM-DD, separated by commas or spaces.
        seeds: The number of seeds per model and night; 3 by default.

    Returns:
        One plan; an empty list if neither models nor nights are given.

    Raises:
        UserError: An option has an invalid value, or only the seeds are given.
    """
    if models is None and nights is None:
        if seeds is not None:
            raise UserError("--seeds: also pass --models or --nights; without them, `compare.plans` sets the seeds")
        return []
    plan: dict[str, Any] = {"seeds": seeds or 3}
    plan |= {"models": models.replace(",", " ").split()} if models else {}
    plan |= {"nights": nights.replace(",", " ").split()} if nights else {}
    try:
        return [Plan.model_validate(plan)]
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"--{first['loc'][0]}: {first['msg'].removeprefix('Value error, ')}") from None


def _set_plans(comparison: Comparison, plans: Sequence[Plan]) -> Comparison:
    """Return a comparison with other plans; raises `UserError` if a plan names an unknown model."""
    try:
        return Comparison.model_validate({**comparison.model_dump(), "plans": [p.model_dump() for p in plans]})
    except ValidationError as error:
        raise UserError(f"--{error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def check_plans(conf: str, overrides: Sequence[str], plans: Sequence[Plan]) -> None:
    """Check the models of plans before Spark starts, which takes many seconds.

    Args:
        conf: The name or path of the configuration.
        overrides: Overrides of settings as `key=value`.
        plans: The plans; empty for those of the configuration.

    Raises:
        UserError: The settings are invalid, or a plan names an unknown model.
    """
    settings = load(conf, overrides)
    if plans:
        _set_plans(settings.compare, plans)


def parse_scores(scores: Sequence[str]) -> list[tuple[str, str]]:
    """Parse values NAME=TABLE of the option `--scores` to pairs (name, table); raises `UserError` for other values."""
    pairs = [s.partition("=") for s in scores]
    for name, _, table in pairs:
        if not (name and table):
            raise UserError(
                f"--scores {name}: expected NAME=TABLE, for example --scores lightgbm=build/lightgbm.parquet"
            )
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
    """Train and evaluate all models of the plans, for all their nights and seeds.

    Args:
        conf: The name or path of the configuration.
        overrides: Overrides of settings as `key=value`, for all models.
        spark: The Spark session.
        plans: The plans to run; by default, those of the configuration.
        scores: Pairs (name, table) of external models, whose scores of the same test rows are also evaluated.
        jobs: The maximum number of parallel training runs; by default, the number of cores.
        measure: Whether to measure the cost of each model.

    Returns:
        The results of the comparison.

    Raises:
        UserError: A plan names an unknown model, or a model changes settings that the split depends on.
        DataError: Training runs failed, or the input data or the scores are invalid.
    """
    settings = load(conf, overrides)
    store = WarehouseTables(settings, spark)
    plans = plans or settings.compare.plans
    newest = [find_newest_day(settings, spark)] if any(not plan.nights for plan in plans) else []
    plans = [plan if plan.nights else plan.model_copy(update={"nights": newest}) for plan in plans]
    comparison = _set_plans(settings.compare, plans)
    nights = sorted({night for plan in plans for night in plan.nights})
    _, pins = prepare_nights(settings, spark, nights)  # the trials load the recipe with their settings
    trials = []
    for model, night, seed in comparison.iter_runs():
        trial_settings = load(
            conf,
            [
                *overrides,
                *comparison.list_overrides(model),
                f"trainer.seed={seed}",
                *EXPERIMENT_OVERRIDES,
            ],
        )
        if hash_split_settings(trial_settings) != hash_split_settings(settings):
            raise UserError(
                f"compare: `{model}` changes settings that the split depends on; use only overrides of `model` and "
                "`trainer` that leave the split unchanged"
            )
        trials.append(Trial(model, trial_settings, train.make_job(trial_settings, store, night, pins[night])))
    # Models with different names but equal settings share a run.
    unique_trials = list({t.job.run_id: t for t in trials}.values())
    train_all("compare", unique_trials, jobs or count_cores())
    rows_by_run = import_all(store, unique_trials)
    rows = [{**row, "compared": t.name} for t in trials for row in rows_by_run[t.job.run_id]]
    for name, table in scores:
        with show_step(name, spark.sparkContext):
            rows += [{**r, "compared": name} for r in import_scores.run(store, name, table, _find_references(trials))]
    last = {t.name: t.job for t in trials if t.job.ds == nights[-1]}
    costs = {}
    if measure:
        with show_step("cost", None):
            costs = measure_costs(last)
    seconds: dict[str, list[float]] = {}
    for t in trials:
        seconds.setdefault(t.name, []).append(read_result(t.job)["seconds"])
    means = {model: sum(values) / len(values) for model, values in seconds.items()}
    return Results(settings.name, comparison, rows, count_training_rows(store, next(iter(last.values()))), costs, means)


def _find_references(trials: Sequence[Trial]) -> dict[str, str]:
    """Return for each night the id of a run that scored its test rows."""
    return {t.job.ds: t.job.run_id for t in trials}
