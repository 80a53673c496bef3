"""Choosing and describing recipes. See `star_ctr.conf.recipe`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.contracts.dates import BEFORE_FIRST_DAY, NO_DAY, list_window_days
from star_ctr.conf.errors import DataError
from star_ctr.conf.recipe import Recipe, TrainingSize, fill_unset, read_recipe, write_recipe
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.model.recipe_rule import RULE_VERSION, choose_settings

MAX_SIZE_RATIO = 4
"""Factor by which the number of training rows may change before a recipe should be renewed."""


def ensure_recipe(settings: Settings, spark: SparkSession, ds: str) -> Settings:
    """Apply the stored recipe; choose and store one first if the warehouse has none.

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
        The rows, clicks and domains of the days of the window before the night.

    Raises:
        DataError: The table `features` has no training rows for the night.
    """
    days = list_window_days(store.settings, ds)[:-1]
    domains = store.read("features").where(F.col("ds").isin(days)).groupBy("domain").count().collect()
    rows = sum(row["count"] for row in domains)
    if rows == 0:
        raise DataError(
            f"{store.warehouse.table('features')}: no training rows in the window before {ds} ({days[0]} to "
            f"{days[-1]}), so no recipe can be chosen; run `star-ctr features --ds {ds}`, or choose a later day"
        )
    labels = store.read("labels").where(F.col("ds").isin(days))
    clicks = labels.agg(F.sum(F.col("label").cast("double"))).first()
    return TrainingSize(rows=rows, clicks=int((clicks and clicks[0]) or 0), domains=len(domains))


def estimate_training_size(settings: Settings, reports: Sequence[Mapping[str, Any]]) -> TrainingSize | None:
    """Estimate the size of the training data from a sample of the logs.

    Args:
        settings: The settings.
        reports: The reports of `star-ctr check`, one per log.

    Returns:
        The size, assuming that the other days of the window are like the sampled ones; None if the sample of the
        impressions does not cover whole days.
    """
    daily = {}
    for report in reports:
        days = [day for day in report["days"] if day not in (NO_DAY, BEFORE_FIRST_DAY)]
        if days and report["is_whole"]:
            daily[report["log"]] = report["rows"] / len(days)
    if "impressions" not in daily:
        return None
    domains = next(report["domains"] for report in reports if report["log"] == "impressions")
    labelled = sum(row["rows"] * (row["click rate"] or 0.0) for row in domains)
    share = labelled / max(1, sum(row["rows"] for row in domains))
    clicks = daily.get("clicks", daily["impressions"] * share)
    window = settings.window.days
    return TrainingSize(rows=round(daily["impressions"] * window), clicks=round(clicks * window), domains=len(domains))


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
    return [f"recipe, chosen for {describe_size(recipe.size)}: {format_settings(recipe.settings)}"]


def describe_size_change(settings: Settings, rows: int) -> list[str]:
    """Describe that the training data is much larger or smaller than when the recipe was chosen.

    Args:
        settings: The settings.
        rows: The number of training rows, before negatives are downsampled.

    Returns:
        A warning, if the number differs by a factor of `MAX_SIZE_RATIO` or more.
    """
    recipe = read_recipe(settings.paths) if settings.preset == "auto" else None
    if recipe is None or rows / MAX_SIZE_RATIO < recipe.size.rows < rows * MAX_SIZE_RATIO:
        return []
    return [
        f"this run has {rows:,} training rows, but the recipe was chosen for {recipe.size.rows:,}; choose a new one "
        "with `star-ctr recipe --renew`"
    ]


def describe_size(size: TrainingSize) -> str:
    """Describe the size of the training data."""

    def count(number: int, noun: str) -> str:
        return f"{number:,} {noun}{'' if number == 1 else 's'}"

    rows, clicks, domains = count(size.rows, "training row"), count(size.clicks, "click"), count(size.domains, "domain")
    return f"{rows} ({clicks}) in {domains}"


def format_settings(values: Mapping[str, Any]) -> str:
    """Format settings in one line."""
    return ", ".join(f"{key}={value}" for key, value in values.items())
