"""Choose the recipe of a data set, and describe it. See `star_ctr.conf.recipe`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.contracts.dates import BEFORE_FIRST_DAY, NO_DAY, list_window_days
from star_ctr.conf.errors import DataError
from star_ctr.conf.recipe import Recipe, TrainingSize, fill_in, read_recipe, write_recipe
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.model.recipe_rule import RULE, choose_values

_OUTGROWN = 4


def use_recipe(settings: Settings, spark: SparkSession, ds: str) -> Settings:
    """Fill in the settings of the recipe, and choose and store the recipe if the warehouse has none.

    Args:
        settings: The settings.
        spark: The Spark session.
        ds: The night, whose features must exist.

    Returns:
        The settings with the values of the recipe; unchanged with `preset: paper`.

    Raises:
        DataError: The table `features` has no training rows for the night, or the file of the recipe is damaged.
    """
    if settings.preset == "paper":
        return settings
    recipe = read_recipe(settings.paths)
    if recipe is None:
        recipe = choose_recipe(settings, spark, ds)
        write_recipe(settings.paths, recipe)
    return fill_in(settings, recipe.values)


def choose_recipe(settings: Settings, spark: SparkSession, ds: str) -> Recipe:
    """Choose the recipe for the training rows of a night; see `recipe_rule`.

    Args:
        settings: The settings.
        spark: The Spark session.
        ds: The night.

    Returns:
        The recipe, which is not stored.

    Raises:
        DataError: The table `features` has no training rows for the night.
    """
    size = measure_size(WarehouseTables(settings, spark), ds)
    return Recipe(rule=RULE, ds=ds, size=size, values=choose_values(size))


def measure_size(store: WarehouseTables, ds: str) -> TrainingSize:
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
    labels = store.read("labels").where(F.col("ds").isin(days))
    clicks = labels.agg(F.sum(F.col("label").cast("double"))).first()
    rows = sum(row["count"] for row in domains)
    if rows == 0:
        raise DataError(
            f"{store.warehouse.table('features')}: no rows for the {len(days)} days before {ds}; run "
            f"`star-ctr features --ds {ds}`"
        )
    return TrainingSize(rows=rows, clicks=int((clicks and clicks[0]) or 0), domains=len(domains))


def estimate_size(settings: Settings, reports: Sequence[Mapping[str, Any]]) -> TrainingSize | None:
    """Estimate the size of the training data from a sample of the logs.

    Args:
        settings: The settings.
        reports: The reports of `star-ctr check`, one per log.

    Returns:
        The size if all days of the training window are like those of the sample; None if the sample does not contain
        whole days.
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
    """Describe the recipe of a warehouse in one line, for the terminal.

    Args:
        settings: The settings.
        ds: The night.

    Returns:
        The line; none with `preset: paper`, or if there is no recipe.
    """
    recipe = read_recipe(settings.paths) if settings.preset == "auto" else None
    if recipe is None:
        return []
    return [f"recipe for {describe_size(recipe.size)}: {format_values(recipe.values)}"]


def describe_outgrown_recipe(settings: Settings, rows: int) -> list[str]:
    """Describe that the training data is much larger or smaller than when the recipe was chosen.

    Args:
        settings: The settings.
        rows: The number of training rows.

    Returns:
        A warning, if the number has changed by more than a factor of 4.
    """
    recipe = read_recipe(settings.paths) if settings.preset == "auto" else None
    if recipe is None or max(rows, 1) / _OUTGROWN < recipe.size.rows < rows * _OUTGROWN:
        return []
    return [
        f"the recipe was chosen for {recipe.size.rows:,} training rows, and this run has {rows:,}; `star-ctr recipe "
        "--renew` chooses it again"
    ]


def describe_size(size: TrainingSize) -> str:
    """Describe the size of the training data."""
    domains = "1 domain" if size.domains == 1 else f"{size.domains} domains"
    return f"{size.rows:,} training rows, {size.clicks:,} of them clicked, in {domains}"


def format_values(values: dict[str, Any]) -> str:
    """Format the values of a recipe in one line."""
    return ", ".join(f"{key}={value}" for key, value in values.items())
