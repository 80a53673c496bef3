"""The simulated world as logs: with late, repeated and orphaned clicks, duplicates and broken rows."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.simulation import Simulation
from star_ctr.features import simulation as sim

BEHAVIOUR_DAYS = 21


def impression_id(row: Column) -> Column:
    """The id of an impression as the logs write it."""
    return F.format_string("p%010d", row)


def impression_log(settings: Simulation, rows: DataFrame) -> DataFrame:
    """The impression log, with `ds` to partition by; 0.1% of its rows twice, and 0.02% broken ones beside them."""
    seed = settings.seed
    log = rows.select(
        impression_id(F.col("id")).alias("impression_id"),
        sim.user_text(F.col("user")).alias("user_id"),
        sim.item_text(F.col("item")).alias("item_id"),
        F.format_string("d%02d", F.col("domain")).alias("domain"),
        "shown_at",
        F.col("position").cast("long").alias("position"),
        sim.day_text(settings, F.col("day")).alias("ds"),
        "id",
    )
    twice = log.where(sim.uniform(seed, "duplicate", F.col("id")) < sim.DEFECT_DUPLICATE)
    bad = log.where(sim.uniform(seed, "bad", F.col("id")) < sim.DEFECT_BAD)
    no_user = F.col("id") % 2 == 0
    broken = bad.select(
        F.concat(F.col("impression_id"), F.lit("x")).alias("impression_id"),
        F.when(~no_user, F.col("user_id")).alias("user_id"),
        "item_id",
        "domain",
        F.when(no_user, F.col("shown_at")).otherwise(F.lit(-1)).alias("shown_at"),
        "position",
        "ds",
        "id",
    )
    return log.unionByName(twice).unionByName(broken).drop("id")


def click_log(settings: Simulation, rows: DataFrame) -> DataFrame:
    """The click log of rows with `clicked`, by the day of the click (`ds`).

    Most clicks come within minutes, some hours later and past midnight, a few after more than a day (those do
    not count), some twice, and some name an impression that nobody saw.
    """
    seed, row = settings.seed, F.col("id")
    u = sim.uniform(seed, "delay", row)
    minutes = -F.log(sim.uniform(seed, "delay/short", row)) * 60_000
    hours = 3_600_000 * (1 + 20 * sim.uniform(seed, "delay/slow", row))
    days = sim.DAY_MS * (1.02 + sim.uniform(seed, "delay/late", row))
    delay = F.when(u < sim.LATE, days).when(u < sim.LATE + sim.SLOW, hours).otherwise(minutes)
    clicks = rows.where("clicked").select(
        "id",
        impression_id(row).alias("impression_id"),
        sim.user_text(F.col("user")).alias("user_id"),
        (F.col("shown_at") + F.floor(delay)).cast("long").alias("clicked_at"),
    )
    again = clicks.where(sim.uniform(seed, "repeat", row) < sim.REPEATS)
    again = again.withColumn("clicked_at", F.col("clicked_at") + 30_000)
    orphan = clicks.where(sim.uniform(seed, "orphan", row) < sim.ORPHANS)
    orphan = orphan.withColumn("impression_id", F.concat(F.col("impression_id"), F.lit("-lost")))
    every = clicks.unionByName(again).unionByName(orphan).drop("id")
    day = F.date_format(F.timestamp_millis("clicked_at"), "yyyy-MM-dd")
    return every.withColumn("ds", day)


def behaviour_log(settings: Simulation, numbers: DataFrame) -> DataFrame:
    """What users did by themselves in the weeks before and during the days, from rows (id)."""
    row, seed = F.col("id"), settings.seed
    domain = 1 + F.floor(len(sim.SHARES) * sim.uniform(seed, "behaviour/domain", row))
    rows = numbers.select("id", sim.some_user(settings, row, domain, "behaviour").alias("user"))
    rows = rows.withColumn("item", sim.some_item(settings, row, F.col("user"), None, "behaviour/item", 0.8))
    span = (BEHAVIOUR_DAYS + settings.days) * sim.DAY_MS
    start = sim.first_day_ms(settings) - BEHAVIOUR_DAYS * sim.DAY_MS
    at = start + F.floor(span * sim.uniform(seed, "behaviour/time", row))
    return rows.select(
        sim.user_text(F.col("user")).alias("user_id"),
        sim.item_text(F.col("item")).alias("item_id"),
        F.when(sim.uniform(seed, "behaviour/kind", row) < 0.85, "click").otherwise("cart").alias("behaviour"),
        at.cast("long").alias("happened_at"),
    )
