"""Choosing and describing recipes. See `star_ctr.conf.recipe`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import getitem
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.contracts.dates import BEFORE_FIRST_DAY, NO_DAY, list_window_days
from star_ctr.conf.errors import DataError
from star_ctr.conf.recipe import Recipe, TrainingSize, fill_unset, read_recipe, write_recipe
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.split_ledger import is_left_out
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.model.recipe_rule import RULE_VERSION, choose_settings

_COUNTED = ("impressions", "clicks")
MAX_SIZE_RATIO = 4
"""Factor by which the number of training rows may change before a recipe should be renewed."""


def ensure_recipe(settings: Settings, spark: SparkSession, ds: str) -> Settings:
    """Apply the stored recipe; choose and store one first if the warehouse has none.

    Settings to which a recipe has been applied keep its values, even if it is renewed.

    Args:
        settings: The settings.
        spark: The Spark session.
        ds: The night, whose features must exist.

    Returns:
        The settings. Unchanged with `preset: paper`.

    Raises:
        DataError: The table `features` has no training rows for the night, or the stored recipe is damaged.
    """
    if settings.preset == "paper":
        return settings
    recipe = read_recipe(settings.paths)
    if recipe is None:
        recipe = choose_recipe(settings, spark, ds)
        write_recipe(settings.paths, recipe)
    return fill_unset(settings, recipe.settings)


def choose_recipe(settings: Settings, spark: SparkSession, ds: str) -> Recipe:
    """Choose the recipe for the training rows of a night; see `star_ctr.model.recipe_rule`.

    Args:
        settings: The settings.
        spark: The Spark session.
        ds: The night.

    Returns:
        The recipe. It is not stored.

    Raises:
        DataError: The table `features` has no training rows for the night.
    """
    size = measure_training_size(WarehouseTables(settings, spark), ds)
    return Recipe(rule_version=RULE_VERSION, ds=ds, size=size, settings=choose_settings(size))


def measure_training_size(store: WarehouseTables, ds: str) -> TrainingSize:
    """Measure the training data of a night.

    Args:
        store: The tables.
        ds: The night.

    Returns:
        The size. Rows that `split` leaves out, because of their label or domain, are not counted.

    Raises:
        DataError: The table `features` has no training rows for the night.
    """
    settings = store.settings
    days = list_window_days(settings, ds)[:-1]
    labels = store.read("labels").where(F.col("ds").isin(days)).withColumn("label_final", F.col("is_final"))
    labels = labels.where(~is_left_out(settings))
    if settings.domains.known is not None and settings.domains.unknown == "drop":
        labels = labels.where(F.col("domain").isin(settings.domains.known))
    clicks = F.sum(F.col("label").cast("double")).alias("clicks")
    found = labels.groupBy("domain").agg(F.count("*").alias("rows"), clicks).collect()
    counts = {row["domain"]: (row["rows"], int(row["clicks"] or 0)) for row in found}
    if not counts:
        raise DataError(
            f"{store.warehouse.table('features')}: no training rows in the window before {ds} ({days[0]} to "
            f"{days[-1]}), so no recipe can be chosen; run `star-ctr features --ds {ds}`, or choose a later day"
        )
    return _sum_counts(settings, counts)


def _sum_counts(settings: Settings, counts: Mapping[str, tuple[float, float]]) -> TrainingSize:
    """Return the size of the training data from rows and clicks by domain, without domains that are not trained on."""
    counts = {domain: found for domain, found in counts.items() if settings.trainer.data.is_selected(domain)}
    negatives = settings.trainer.negatives

    def count_used(domain: str, rows: float, clicks: float) -> float:
        share = negatives.get(domain, 1.0) if isinstance(negatives, Mapping) else negatives
        return clicks + share * (rows - clicks)

    return TrainingSize(
        rows=round(sum(rows for rows, _ in counts.values())),
        clicks=round(sum(clicks for _, clicks in counts.values())),
        domains=len(counts),
        used_rows=round(sum(count_used(domain, *found) for domain, found in counts.items())),
    )


def estimate_training_size(settings: Settings, reports: Sequence[Mapping[str, Any]]) -> TrainingSize | None:
    """Estimate the size of the training data from a sample of the logs.

    Args:
        settings: The settings.
        reports: The reports of `star-ctr check`, one per log.

    Returns:
        The size, assuming that the other days of the window are like the sampled ones; None if the samples of
        impressions and clicks do not cover whole days.
    """
    days = {
        report["log"]: len([day for day in report["days"] if day not in (NO_DAY, BEFORE_FIRST_DAY)])
        for report in reports
    }
    if any(not report["is_whole"] or not days[report["log"]] for report in reports if report["log"] in _COUNTED):
        return None
    rows = {report["log"]: report["rows"] for report in reports}
    domains = [row for report in reports if report["log"] == "impressions" for row in report["domains"]]
    shown = sum(row["rows"] for row in domains)
    if not shown:
        return None
    trained = next(report["training_share"] for report in reports if report["log"] == "impressions")
    scale = trained * settings.window.days / days["impressions"]
    share = rows["clicks"] / days["clicks"] * days["impressions"] / shown if "clicks" in rows else None
    return _sum_counts(
        settings,
        {
            row["domain"]: (
                scale * row["rows"],
                scale * row["rows"] * ((row["click rate"] or 0.0) if share is None else share),
            )
            for row in domains
        },
    )


def describe_recipe(settings: Settings, ds: str) -> list[str]:
    """Describe the recipe of the warehouse in one line, for the terminal.

    Args:
        settings: The settings.
        ds: Not used; all descriptions of a step have this parameter.

    Returns:
        The line; none with `preset: paper`, or if there is no recipe.
    """
    recipe = read_recipe(settings.paths) if settings.preset == "auto" else None
    if recipe is None:
        return []
    used = settings.model_dump(mode="json")
    values = {key: reduce(getitem, key.split("."), used) for key in recipe.settings}
    size = describe_size(recipe.size)
    return [f"settings, with the recipe chosen on {recipe.ds} for {size}: {format_settings(values)}"]


def describe_size_change(settings: Settings, rows: int) -> list[str]:
    """Describe that the training data is much larger or smaller than when the recipe was chosen.

    Args:
        settings: The settings.
        rows: The number of rows that the model was trained on.

    Returns:
        A warning, if the number differs by a factor of `MAX_SIZE_RATIO` or more.
    """
    recipe = read_recipe(settings.paths) if settings.preset == "auto" else None
    if recipe is None or rows / MAX_SIZE_RATIO < recipe.size.used_rows < rows * MAX_SIZE_RATIO:
        return []
    return [
        f"this run has {rows:,} training rows, but the recipe was chosen for {recipe.size.used_rows:,}; choose a new "
        "one with `star-ctr recipe --renew`, and the same --conf"
    ]


def describe_size(size: TrainingSize) -> str:
    """Describe the size of the training data."""

    def count(number: int, noun: str) -> str:
        return f"{number:,} {noun}{'' if number == 1 else 's'}"

    rows, clicks, domains = count(size.rows, "training row"), count(size.clicks, "click"), count(size.domains, "domain")
    sampled = f", {size.used_rows:,} of them after downsampling" if size.used_rows < size.rows else ""
    return f"{rows} ({clicks}) in {domains}{sampled}"


def format_settings(values: Mapping[str, Any]) -> str:
    """Format settings in one line."""
    return ", ".join(f"{key}={value}" for key, value in values.items())
