"""Training runs of `star-ctr domains`: a joint model, and for each domain one model of it alone and one without it.

All models have the same settings and are trained on the same features. Statistics among the features also count the
events of domains that a model is not trained on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import SparkSession

from star_ctr.conf.contracts.dates import check_day
from star_ctr.conf.contracts.domains import OTHER_NAME, OVERALL
from star_ctr.conf.errors import DataError, UserError, suggest_nearest
from star_ctr.conf.load import load
from star_ctr.conf.settings.trainer import DataSettings
from star_ctr.jobs import train
from star_ctr.jobs.io.newest_day import find_newest_day
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.tools import run_estimates
from star_ctr.model.distributed.threads import count_cores
from star_ctr.workflows.domains.effects import (
    JOINT,
    Effect,
    compute_effects,
    list_parts,
    name_alone,
    name_without,
)
from star_ctr.workflows.terminal import show_step, stderr
from star_ctr.workflows.trials import (
    EXPERIMENT_OVERRIDES,
    Trial,
    count_training_rows,
    import_all,
    prepare_nights,
    train_all,
)

_SHOWN = ("gauc", "auc", "log_loss", "pcoc")


@dataclass(frozen=True)
class DomainMetrics:
    """A domain with its rows, and the metrics of three models on its test rows.

    Attributes:
        domain: The name of the domain.
        train_rows: Training rows, the mean over nights. So are the other counts.
        train_clicks: Clicks of the training rows.
        test_rows: Test rows.
        test_clicks: Clicks of the test rows.
        metrics: Means over nights and seeds by model (`joint`, `alone`, `without`) and metric; None if undefined.
            `without` is the model that is trained on the other domains only.
    """

    domain: str
    train_rows: int
    train_clicks: int
    test_rows: int
    test_clicks: int
    metrics: dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Results:
    """The results of `star-ctr domains`.

    Attributes:
        name: The name of the configuration.
        nights: The nights.
        seeds: The number of seeds.
        level: Confidence level of the intervals.
        domains: The analyzed domains, largest first.
        effects: The effects.
        left_out: The clicks of the domains that were not analyzed because they have too few.
        min_clicks: The minimum number of clicks of an analyzed domain; None if the user named the domains.
        models: The overrides of each model by its name, in addition to those of all models.
    """

    name: str
    nights: list[str]
    seeds: int
    level: float
    domains: list[DomainMetrics]
    effects: list[Effect]
    left_out: dict[str, int]
    min_clicks: int | None
    models: dict[str, list[str]]


def run(
    conf: str,
    overrides: Sequence[str],
    spark: SparkSession,
    nights: Sequence[str] = (),
    seeds: int = 3,
    domains: Sequence[str] = (),
    min_clicks: int = 100,
    jobs: int | None = None,
) -> Results:
    """Train all models of all nights and seeds, and compute the effects of the domains on each other.

    Args:
        conf: The name or path of the configuration.
        overrides: Overrides of settings as `key=value`, for all models.
        spark: The Spark session.
        nights: The nights as YYYY-MM-DD; by default the newest complete day.
        seeds: The number of seeds, which count from 0.
        domains: The domains to analyze; by default those with enough clicks.
        min_clicks: The minimum number of clicks of a domain in the training rows of each night, if `domains` is empty.
        jobs: The maximum number of parallel training runs; by default the number of cores.

    Returns:
        The results.

    Raises:
        UserError: A domain is unknown, or fewer than two domains can be analyzed.
        DataError: Training runs failed, a night is not a date, or the input data is invalid.
    """
    settings = load(conf, overrides)
    store = WarehouseTables(settings, spark)
    nights = sorted({check_day(night) for night in nights}) or [find_newest_day(settings, spark)]
    _, pins = prepare_nights(settings, spark, nights)  # the trials load the recipe with their settings
    common = [*EXPERIMENT_OVERRIDES, "trainer.warm_start=null", "reference=null"]

    def make_trial(name: str, selection: Sequence[str], night: str, seed: int) -> Trial:
        trial_settings = load(conf, [*overrides, *common, *selection, f"trainer.seed={seed}"])
        return Trial(name, trial_settings, train.make_job(trial_settings, store, night, pins[night]))

    data = settings.trainer.data
    first_trials = {night: make_trial(JOINT, [], night, 0) for night in nights}
    counts = {night: _count_trained(store, trial, data) for night, trial in first_trials.items()}
    chosen, left_out = choose_domains(list(counts.values()), domains, min_clicks)
    names = dict(iter_models(data, chosen, sorted({d for found in counts.values() for d in found})))
    stderr.print(
        f"domains: {len(chosen)}, models: {len(names)}, nights: {len(nights)}, seeds: {seeds}, "
        f"training runs: {len(names) * len(nights) * seeds}",
        highlight=False,
    )
    trials = [make_trial(name, s, night, k) for k in range(seeds) for night in nights for name, s in names.items()]
    unique_trials = list({t.job.run_id: t for t in trials}.values())
    train_all("domains", unique_trials, jobs or count_cores())
    metrics = import_all(store, unique_trials)
    run_ids = {(t.name, t.job.ds, t.job.trainer.seed): t.job.run_id for t in trials}
    parts = list_parts(chosen, sorted({r["domain"] for rows in metrics.values() for r in rows} - {OVERALL}))
    wanted = {(key, part): (run_id, part) for key, run_id in run_ids.items() for name, part in parts if name == key[0]}
    with show_step("effects", spark.sparkContext):
        found = run_estimates.run(store, settings.evaluate, list(dict.fromkeys(wanted.values())))
    estimates = {(*key, part): found[pair] for (key, part), pair in wanted.items() if pair in found}
    level = settings.evaluate.level
    return Results(
        settings.name,
        list(nights),
        seeds,
        level,
        [_describe(d, counts, run_ids, metrics) for d in chosen],
        compute_effects(estimates, chosen, nights, range(seeds), level),
        left_out,
        None if domains else min_clicks,
        {name: [*common, *selection] for name, selection in names.items()},
    )


def _count_trained(store: WarehouseTables, trial: Trial, data: DataSettings) -> dict[str, tuple[int, int]]:
    """Return the training rows and clicks of each domain that the joint model is trained on."""
    found = count_training_rows(store, trial.job)
    return {r["domain"]: (r["rows"], int(r["clicks"])) for r in found if data.is_selected(r["domain"])}


def choose_domains(
    counts: Sequence[Mapping[str, tuple[int, int]]], domains: Sequence[str], min_clicks: int
) -> tuple[list[str], dict[str, int]]:
    """Choose the domains to analyze.

    Args:
        counts: The training rows and clicks of each domain, by night.
        domains: The domains that the user named; empty for all that have enough clicks in every night.
        min_clicks: The minimum number of clicks.

    Returns:
        The domains, most clicks first; and the clicks of those that were left out because they have too few.

    Raises:
        DataError: All training rows come from one domain.
        UserError: A domain has no training rows in one of the nights, or fewer than two domains have enough clicks.
    """
    clicks = {d: min(c.get(d, (0, 0))[1] for c in counts) for found in counts for d in found}
    in_all = [d for d in clicks if all(d in found for found in counts)]
    for domain in domains:
        if domain not in in_all:
            hint = suggest_nearest(domain, in_all)
            raise UserError(f"--domains: no training rows of the domain `{domain}`{hint}; correct or remove it")
    chosen = sorted(
        set(domains) or {d for d in in_all if clicks[d] >= min_clicks and d != OTHER_NAME},
        key=lambda d: (-clicks[d], d),
    )
    if not domains and len(chosen) < 2:
        most = ", ".join(f"{d} ({clicks[d]:,})" for d in sorted(clicks, key=lambda d: -clicks[d])[:5])
        raise UserError(
            f"--min-clicks {min_clicks}: fewer than two domains have this many clicks in the training rows; the "
            f"domains with the most clicks are {most}. Set a smaller number, or name the domains with --domains"
        )
    if len(clicks) < 2:
        raise DataError("domains: all training rows come from one domain, so there is nothing to compare")
    return chosen, {d: n for d, n in sorted(clicks.items()) if d not in chosen} if not domains else {}


def iter_models(data: DataSettings, domains: Sequence[str], trained: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each model and the overrides that select its domains.

    Args:
        data: The settings of the joint model.
        domains: The analyzed domains.
        trained: All domains that the joint model is trained on.
    """

    def select(names: Sequence[str]) -> list[str]:
        return [f"trainer.data.domains={json.dumps(list(names))}", "trainer.data.exclude_domains=[]"]

    yield JOINT, []
    for domain in domains:
        yield name_alone(domain), select([domain])
    for domain in domains:
        rest = [d for d in trained if d != domain]
        if len(rest) == 1 or data.domains is not None:  # with one domain: the same run as for that domain alone
            yield name_without(domain), select(rest)
        else:
            yield name_without(domain), [f"trainer.data.exclude_domains={json.dumps([*data.exclude_domains, domain])}"]


def _describe(
    domain: str,
    counts: Mapping[str, Mapping[str, tuple[int, int]]],
    run_ids: Mapping[tuple[str, str, int], str],
    metrics: Mapping[str, Sequence[Mapping[str, Any]]],
) -> DomainMetrics:
    """Return the rows of a domain and the metrics of its models."""
    models = {"joint": JOINT, "alone": name_alone(domain), "without": name_without(domain)}
    rows = {
        model: [
            r for key, run_id in run_ids.items() if key[0] == name for r in metrics[run_id] if r["domain"] == domain
        ]
        for model, name in models.items()
    }

    def average(values: Sequence[float | None]) -> float | None:
        defined = [v for v in values if v is not None]
        return sum(defined) / len(defined) if defined else None

    train_rows, train_clicks = (round(average([n[domain][k] for n in counts.values()]) or 0) for k in range(2))
    test_rows, test_clicks = (round(average([r[name] for r in rows["joint"]]) or 0) for name in ("rows", "clicks"))
    means = {model: {m: average([r[m] for r in found]) for m in _SHOWN} for model, found in rows.items()}
    return DomainMetrics(domain, train_rows, train_clicks, test_rows, test_clicks, means)
