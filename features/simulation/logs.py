"""Make the simulated logs, with late, repeated and orphaned clicks, duplicate rows and broken rows."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.settings.simulate import SimulateSettings
from star_ctr.features.simulation import impressions as sim

BEHAVIOUR_DAYS = 21
"""Days of behaviours before the first day of impressions."""


def format_impression_id(row: Column) -> Column:
    """Format a row number as an impression id of the logs."""
    return F.format_string("p%010d", row)


def make_impression_log(settings: SimulateSettings, rows: DataFrame) -> DataFrame:
    """Make the impression log.

    In addition to the impressions, it contains a duplicate of 0.1% of them, and a broken row for 0.02% of them. A
    broken row has no user or a negative time, and an impression id that ends in `x`.

    Args:
        settings: The settings of the simulator.
        rows: The impressions, from `make_impressions`.

    Returns:
        The columns `impression_id`, `user_id`, `item_id`, `domain`, `shown_at` (epoch milliseconds), `position` and
        `ds` (the day, to partition by).
    """
    seed, row = settings.seed, F.col("id")
    is_user_missing = row % 2 == 0
    as_shown = F.struct(
        format_impression_id(row).alias("impression_id"),
        sim.format_user(F.col("user")).alias("user_id"),
        F.col("shown_at").alias("shown_at"),
    )
    broken = F.struct(
        F.concat(format_impression_id(row), F.lit("x")).alias("impression_id"),
        F.when(~is_user_missing, sim.format_user(F.col("user"))).alias("user_id"),
        F.when(is_user_missing, F.col("shown_at")).otherwise(F.lit(-1).cast("long")).alias("shown_at"),
    )
    is_duplicated = sim.draw_uniform(seed, "duplicate", row) < sim.DEFECT_DUPLICATE
    has_broken = sim.draw_uniform(seed, "bad", row) < sim.DEFECT_BROKEN
    logged = _explode_if((F.lit(True), as_shown), (is_duplicated, as_shown), (has_broken, broken))
    log = rows.select("*", logged.alias("as_logged"))
    return log.select(
        "as_logged.impression_id",
        "as_logged.user_id",
        sim.format_item(F.col("item")).alias("item_id"),
        F.format_string("d%02d", F.col("domain")).alias("domain"),
        "as_logged.shown_at",
        F.col("position").cast("long").alias("position"),
        sim.format_day(settings, F.col("day")).alias("ds"),
    )


def make_click_log(settings: SimulateSettings, rows: DataFrame) -> DataFrame:
    """Make the click log.

    Most clicks follow their impression within minutes. 6% follow hours later, some of them after midnight. 0.3% follow
    after more than a day, which is outside the attribution window. 1% are logged again 30 seconds later. For
    0.2%, the log contains an additional orphan: a click on an impression that does not exist.

    Args:
        settings: The settings of the simulator.
        rows: The impressions with `clicked`, from `add_clicks`.

    Returns:
        The columns `impression_id`, `user_id`, `clicked_at` (epoch milliseconds) and `ds` (the day of the click, UTC).
    """
    seed, row = settings.seed, F.col("id")
    u = sim.draw_uniform(seed, "delay", row)
    minutes = -F.log(sim.draw_uniform(seed, "delay/short", row)) * 60_000
    hours = 3_600_000 * (1 + 20 * sim.draw_uniform(seed, "delay/slow", row))
    days = sim.DAY_MS * (1.02 + sim.draw_uniform(seed, "delay/late", row))
    delay = F.when(u < sim.LATE_SHARE, days).when(u < sim.LATE_SHARE + sim.SLOW_SHARE, hours).otherwise(minutes)
    at = (F.col("shown_at") + F.floor(delay)).cast("long")
    click = F.struct(format_impression_id(row).alias("impression_id"), at.alias("clicked_at"))
    again = F.struct(format_impression_id(row).alias("impression_id"), (at + 30_000).alias("clicked_at"))
    lost = F.struct(F.concat(format_impression_id(row), F.lit("-lost")).alias("impression_id"), at.alias("clicked_at"))
    is_repeated = F.col("clicked") & (sim.draw_uniform(seed, "repeat", row) < sim.REPEAT_SHARE)
    has_orphan = F.col("clicked") & (sim.draw_uniform(seed, "orphan", row) < sim.ORPHAN_SHARE)
    # Use an explode instead of a filter on `clicked`. Spark would push the filter down through all steps before it, and
    # the resulting expression would repeat each of them many times.
    logged = _explode_if((F.col("clicked"), click), (is_repeated, again), (has_orphan, lost))
    log = rows.select("*", logged.alias("as_logged"))
    return log.select(
        "as_logged.impression_id",
        sim.format_user(F.col("user")).alias("user_id"),
        "as_logged.clicked_at",
        F.date_format(F.timestamp_millis("as_logged.clicked_at"), "yyyy-MM-dd").alias("ds"),
    )


def _explode_if(*rows: tuple[Column, Column]) -> Column:
    """Make one row per struct whose condition is true, from pairs of a condition and a struct."""
    structs = F.array(*(F.when(condition, struct) for condition, struct in rows))
    return F.explode(F.array_compact(structs))


def make_behaviour_log(settings: SimulateSettings, numbers: DataFrame) -> DataFrame:
    """Make the behaviour log: clicks and add-to-carts that do not belong to an impression.

    Behaviours start `BEHAVIOUR_DAYS` days before the first day and end with the last day. With probability 0.8, the
    item is of a category that the user likes.

    Args:
        settings: The settings of the simulator.
        numbers: One row per behaviour, with `id`.

    Returns:
        The columns `user_id`, `item_id`, `behaviour` (`click` or `cart`) and `happened_at` (epoch milliseconds).
    """
    row, seed = F.col("id"), settings.seed
    domain = 1 + F.floor(len(sim.SHARES) * sim.draw_uniform(seed, "behaviour/domain", row))
    rows = numbers.select("id", sim.draw_user(settings, row, domain, "behaviour").alias("user"))
    rows = rows.withColumn("item", sim.draw_item(settings, row, F.col("user"), None, "behaviour/item", 0.8))
    span = (BEHAVIOUR_DAYS + settings.days) * sim.DAY_MS
    start = sim.get_first_day_ms(settings) - BEHAVIOUR_DAYS * sim.DAY_MS
    at = start + F.floor(span * sim.draw_uniform(seed, "behaviour/time", row))
    return rows.select(
        sim.format_user(F.col("user")).alias("user_id"),
        sim.format_item(F.col("item")).alias("item_id"),
        F.when(sim.draw_uniform(seed, "behaviour/kind", row) < 0.85, "click").otherwise("cart").alias("behaviour"),
        at.cast("long").alias("happened_at"),
    )
