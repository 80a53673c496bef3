"""Comparison of given settings with the current ones, on the nights of a search (`star-ctr tune --try`)."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from star_ctr.conf.contracts.run_id import hash_split_settings
from star_ctr.conf.errors import UserError
from star_ctr.conf.load import load
from star_ctr.conf.recipe import read_recipe
from star_ctr.conf.settings.root import Settings
from star_ctr.conf.settings.tune import is_fixed
from star_ctr.workflows.tune.display import Display
from star_ctr.workflows.tune.experiment import train_all
from star_ctr.workflows.tune.gains import compute_changes, compute_gains, compute_needed_gain, get_paired_runs
from star_ctr.workflows.tune.nights import Prepared
from star_ctr.workflows.tune.report import summarize
from star_ctr.workflows.tune.run import open_experiment
from star_ctr.workflows.tune.runs import Pair, Run
from star_ctr.workflows.tune.space import dump_training


def parse_variant(conf: str, overrides: Sequence[str], text: str, current: Settings) -> dict[str, Any]:
    """Return the settings of a variant that differ from the current ones.

    Args:
        conf: The file of the data set, or the name of a configuration of this package.
        overrides: The overrides of all variants.
        text: Further overrides, separated by spaces.
        current: The current settings.

    Returns:
        The values by dotted key.

    Raises:
        UserError: The variant changes the split, or needs a recipe that the warehouse does not have.
    """
    changes = shlex.split(text)
    for key in (change.partition("=")[0] for change in changes):
        if key == "trainer.seed" or is_fixed(key):
            raise UserError(f"--try {text}: `{key}` is the same in all runs, or does not change the model; remove it")
    settings = load(conf, [*overrides, *changes])
    if settings.preset == "auto" and read_recipe(settings.paths) is None:
        raise UserError(
            f"--try {text}: {settings.paths.warehouse} has no recipe; run `star-ctr recipe --conf {conf} --set "
            "preset=auto --renew`"
        )
    if hash_split_settings(settings) != hash_split_settings(current):
        raise UserError(f"--try {text}: these settings need another split; use keys of `model` and `trainer`")
    before = dump_training(current)
    return {key: value for key, value in dump_training(settings).items() if before[key] != value}


def compare(
    prepared: Prepared, conf: str, overrides: Sequence[str], texts: Sequence[str], seeds: int, jobs: int | None
) -> list[dict[str, Any]]:
    """Train the current settings and each variant on all search nights with all seeds.

    Args:
        prepared: The inputs of the training runs.
        conf: The file of the data set, or the name of a configuration of this package.
        overrides: The overrides of all variants.
        texts: The overrides of each variant, separated by spaces.
        seeds: The number of seeds per night.
        jobs: The number of parallel training runs.

    Returns:
        One row for the current settings and one per variant: the mean metrics, and the mean gain in the objective with
        its standard error.

    Raises:
        DataError: A training run failed.
        UserError: A variant is not valid.
    """
    first = prepared.settings.trainer.seed
    pairs = [Pair(night, seed) for seed in range(first, first + seeds) for night in prepared.nights.search]
    variants: dict[str, dict[str, Any]] = {
        text: parse_variant(conf, overrides, text, prepared.settings) for text in texts
    }
    named = {"current settings": {}, **variants}
    rows = []
    with open_experiment(prepared, jobs) as experiment, Display(experiment) as display:
        different = [{}, *(values for values in variants.values() if values)]
        runs = [Run(values, pair) for values in different for pair in pairs]
        train_all(experiment, runs, show=lambda done, total: display.show_runs("training", done, total))
        for name, values in named.items():
            gains = list(compute_gains(experiment, values, pairs).values())
            changed, baseline = get_paired_runs(experiment, values, pairs)
            error = compute_needed_gain(gains, 1, 0.9)[0] if values and len(gains) > 1 else None
            domains = _compute_domain_pcoc(changed)
            rows.append(
                {
                    "settings": name,
                    "values": values,
                    **summarize(changed),
                    "gain": sum(gains) / len(gains),
                    "error": error,
                    "changes": compute_changes(changed, baseline),
                    "pcoc_by_domain": domains,
                }
            )
    return rows


def _compute_domain_pcoc(runs: Sequence[Any]) -> dict[str, float | None]:
    """Return the pooled PCOC of each domain, largest domains first."""
    sums: dict[str, list[float]] = {}
    for run in runs:
        for name, counts in run.domains.items():
            sums[name] = [a + b for a, b in zip(sums.get(name, [0.0, 0.0, 0.0]), counts, strict=True)]
    by_size = sorted(sums.items(), key=lambda item: -item[1][0])
    return {name: predicted / clicks if clicks else None for name, (_, clicks, predicted) in by_size}
