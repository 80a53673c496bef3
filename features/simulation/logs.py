"""The simulated world as logs: with late, repeated and orphaned clicks, duplicates and broken rows."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.settings.simulate import SimulateSettings
from star_ctr.features.simulation import impressions as sim

BEHAVIOUR_DAYS = 21


def format_impression_id(row: Column) -> Column:
    """The id of an impression as the logs write it."""
    return F.format_string("p%010d", row)


def make_impression_log(settings: SimulateSettings, rows: DataFrame) -> DataFrame:
    """The impression log, with `ds` to partition by; 0.1% of its rows twice, and 0.02% broken ones beside them."""
    seed, row = settings.seed, F.col("id")
    no_user = row % 2 == 0
    as_shown = F.struct(
        format_impression_id(row).alias("impression_id"),
        sim.format_user(F.col("user")).alias("user_id"),
        F.col("shown_at").alias("shown_at"),
    )
    broken = F.struct(
        F.concat(format_impression_id(row), F.lit("x")).alias("impression_id"),
        F.when(~no_user, sim.format_user(F.col("user"))).alias("user_id"),
        F.when(no_user, F.col("shown_at")).otherwise(F.lit(-1).cast("long")).alias("shown_at"),
    )
    twice = sim.draw_uniform(seed, "duplicate", row) < sim.DEFECT_DUPLICATE
    bad = sim.draw_uniform(seed, "bad", row) < sim.DEFECT_BAD
    log = rows.select("*", _explode_if((F.lit(True), as_shown), (twice, as_shown), (bad, broken)).alias("as_logged"))
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
    """The click log of rows with `clicked`, by the day of the click (`ds`).

    Most clicks come within minutes, some hours later and past midnight, a few after more than a day (those do
    not count), some twice, and some name an impression that nobody saw.
    """
    seed, row = settings.seed, F.col("id")
    u = sim.draw_uniform(seed, "delay", row)
    minutes = -F.log(sim.draw_uniform(seed, "delay/short", row)) * 60_000
    hours = 3_600_000 * (1 + 20 * sim.draw_uniform(seed, "delay/slow", row))
    days = sim.DAY_MS * (1.02 + sim.draw_uniform(seed, "delay/late", row))
    delay = F.when(u < sim.LATE, days).when(u < sim.LATE + sim.SLOW, hours).otherwise(minutes)
    at = (F.col("shown_at") + F.floor(delay)).cast("long")
    click = F.struct(format_impression_id(row).alias("impression_id"), at.alias("clicked_at"))
    again = F.struct(format_impression_id(row).alias("impression_id"), (at + 30_000).alias("clicked_at"))
    lost = F.struct(F.concat(format_impression_id(row), F.lit("-lost")).alias("impression_id"), at.alias("clicked_at"))
    repeated = F.col("clicked") & (sim.draw_uniform(seed, "repeat", row) < sim.REPEATS)
    orphan = F.col("clicked") & (sim.draw_uniform(seed, "orphan", row) < sim.ORPHANS)
    # A filter on `clicked` would be pushed down through every step that leads to it, and its expression would
    # hold each of them many times over; an explode is no filter.
    log = rows.select("*", _explode_if((F.col("clicked"), click), (repeated, again), (orphan, lost)).alias("as_logged"))
    return log.select(
        "as_logged.impression_id",
        sim.format_user(F.col("user")).alias("user_id"),
        "as_logged.clicked_at",
        F.date_format(F.timestamp_millis("as_logged.clicked_at"), "yyyy-MM-dd").alias("ds"),
    )


def _explode_if(*rows: tuple[Column, Column]) -> Column:
    """One row for each struct whose condition holds."""
    structs = F.array(*(F.when(condition, struct) for condition, struct in rows))
    return F.explode(F.array_compact(structs))


def make_behaviour_log(settings: SimulateSettings, numbers: DataFrame) -> DataFrame:
    """What users did by themselves in the weeks before and during the days, from rows (id)."""
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
