"""The label of an impression from a separate click log: clicks joined by id within an attribution window.

Clicks come late, past midnight, repeated, or without their impression. An impression is clicked if the log
holds a click of it at its own time or later, by at most the window; the first such click counts, and its
time is when the outcome became known. What became of every click is counted.
"""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

MATCHED = ""
REPEATED = "repeated click"
LATE = "click after the attribution window"
EARLY = "click before its impression"
ORPHAN = "click without impression"


def attribute(impressions: DataFrame, clicks: DataFrame, window_hours: float) -> DataFrame:
    """`impressions` with `label` (0.0 or 1.0) and `clicked_at` (the time of the first click, null if none).

    `impressions` needs impression_id and ts, `clicks` impression_id and ts.
    """
    fates = match_clicks(impressions, clicks, window_hours)
    first = fates.where(F.col("fate") == MATCHED).select(
        "impression_id", F.col("shown_at").alias("ts"), F.col("ts").alias("clicked_at")
    )
    return impressions.join(first, ["impression_id", "ts"], "left").withColumn(
        "label", F.col("clicked_at").isNotNull().cast("double")
    )


def match_clicks(impressions: DataFrame, clicks: DataFrame, window_hours: float) -> DataFrame:
    """Each click with its `fate`: empty for the one that made the label, else why it did not count.

    Columns: impression_id, ts, ds (of the click), shown_at and domain (of the impression, null for an orphan), fate.
    If an id is used again on another day, a click belongs to the latest impression with that id before the click.
    """
    asked = clicks.select("impression_id").distinct()
    by_time = Window.partitionBy("impression_id").orderBy("ts")
    shown = impressions.join(asked, "impression_id", "left_semi").select(
        F.col("impression_id").alias("_id"),
        F.col("ts").alias("shown_at"),
        "domain",
        F.lead("ts").over(by_time).alias("_next"),
        (F.row_number().over(by_time) == 1).alias("_first"),
    )
    since = F.col("_first") | (F.col("shown_at") <= F.col("ts"))
    until = F.col("_next").isNull() | (F.col("ts") < F.col("_next"))
    matches = (F.col("impression_id") == F.col("_id")) & since & until
    joined = clicks.select("impression_id", "ts", "ds").join(shown, matches, "left")
    delay = F.unix_micros("ts") - F.unix_micros("shown_at")
    timing = (
        F.when(F.col("shown_at").isNull(), ORPHAN)
        .when(delay < 0, EARLY)
        .when(delay > int(window_hours * 3_600_000_000), LATE)
        .otherwise(MATCHED)
    )
    order = Window.partitionBy("impression_id", "shown_at", "timing").orderBy("ts", "ds")
    again = (F.col("timing") == MATCHED) & (F.row_number().over(order) > 1)
    fate = F.when(again, REPEATED).otherwise(F.col("timing")).alias("fate")
    return joined.withColumn("timing", timing).select("impression_id", "ts", "ds", "shown_at", "domain", fate)


def count_clicks(fates: DataFrame) -> DataFrame:
    """Ledger entries of clicks: rows in, rows that made a label, by day of the click, domain and fate."""
    return (
        fates.groupBy("ds", F.coalesce("domain", F.lit("unknown")).alias("domain"), F.col("fate").alias("reason"))
        .agg(F.count("*").alias("rows_in"))
        .withColumn("rows_out", F.when(F.col("reason") == MATCHED, F.col("rows_in")).otherwise(F.lit(0)))
    )
