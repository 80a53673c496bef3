"""Attribution of clicks: compute the label of an impression from a separate click log.

Clicks are joined with impressions by impression id, within an attribution window. Clicks may arrive late, after
midnight, more than once, or without their impression. An impression is labeled as clicked if the log contains a click
with its id at the time of the impression or later, within the window. The click that became known first counts. The
outcome is known from this time on. Each click gets a status: that it set the label, or why it does not count.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from star_ctr.features.point_in_time.known_times import compute_known_time

MATCHED = ""
"""The status of a click that set the label of its impression."""
REPEATED = "repeated click"
LATE = "click after the attribution window"
EARLY = "click before its impression"
ORPHAN = "click without impression"
"""No impression with its id was shown shortly before or after the click."""
WINDOWS = 2
"""Number of attribution windows before a click in which its impression is searched."""
_MAX_EARLIER = 8
"""Number of earlier impressions with the same id that are compared with a click."""


def name_event_status(status: str) -> str:
    """Return the status of an event of a further outcome, from that of a click."""
    return status.replace("click", "event")


def add_labels(impressions: DataFrame, clicks: DataFrame, window_hours: float, zone: str) -> DataFrame:
    """Add the label to impressions.

    Args:
        impressions: Impressions with `impression_id`, `ts`, `ds` and `domain`.
        clicks: Clicks with `impression_id`, `ts` and `ds`.
        window_hours: Maximum time from impression to click, in hours.
        zone: The time zone of days.

    Returns:
        `impressions` with `label` (0.0 or 1.0), and of the click its time (`clicked_at`), the time from which it and
        its impression are known (`click_known`), and the log day that made them known (`click_day`). Without a click,
        these three are null.
    """
    return label_matched(impressions, match_clicks(impressions, clicks, window_hours, zone))


def label_matched(impressions: DataFrame, matches: DataFrame) -> DataFrame:
    """Add the label to impressions, as `add_labels` does, from the matches of clicks."""
    matched = matches.where(F.col("status") == MATCHED).select(
        "impression_id",
        F.col("shown_at").alias("ts"),
        F.col("shown_ds").alias("ds"),
        F.col("ts").alias("clicked_at"),
        F.timestamp_micros("known").alias("click_known"),
        F.greatest("ds", "shown_ds").alias("click_day"),
    )
    return impressions.join(matched, ["impression_id", "ts", "ds"], "left").withColumn(
        "label", F.col("clicked_at").isNotNull().cast("double")
    )


def compute_closing_day(window_hours: float, zone: str) -> Column:
    """Return the day at whose end the label of an impression is final, clicked or not.

    Args:
        window_hours: As for `add_labels`.
        zone: As for `add_labels`.

    Returns:
        The day on which the attribution window ends, as text; at least the log day `ds`.
    """
    end = F.timestamp_micros(F.unix_micros("ts") + F.lit(int(window_hours * 3_600_000_000) - 1))
    return F.greatest(F.to_date(F.from_utc_timestamp(end, zone)).cast("string"), F.col("ds"))


def match_clicks(impressions: DataFrame, clicks: DataFrame, window_hours: float, zone: str) -> DataFrame:
    """Match each click with its impression.

    A click belongs to the latest impression with its id in the two attribution windows before the click. An id may be
    used again later. Impressions of later log days than the click count only if there is no other one, so that a later
    log day does not change an outcome that is known already. Without such an impression, the click belongs to the next
    one within a window after it, to report that it is too early. So the match of a click depends only on impressions
    whose time is near that of the click.

    Args:
        impressions: As for `add_labels`.
        clicks: As for `add_labels`.
        window_hours: As for `add_labels`.
        zone: As for `add_labels`.

    Returns:
        One row per click: `impression_id`, `ts` and `ds` of the click; `shown_at`, `shown_ds` and `domain` of its
        impression (null without an impression); `known`, the time from which both are known, in microseconds; and
        `status`, which is MATCHED if the click set the label, else the reason why it does not count.
    """
    ids = clicks.select("impression_id").distinct()
    by_time = Window.partitionBy("impression_id").orderBy("ts", "ds")
    impression = F.struct(F.col("ts").alias("shown_at"), F.col("ds").alias("shown_ds"), "domain")
    shown = impressions.join(ids, "impression_id", "left_semi").select(
        F.col("impression_id").alias("_id"),
        impression.alias("_shown"),
        F.lead(impression).over(by_time).alias("_next"),
        (F.row_number().over(by_time) == 1).alias("_first"),
        F.collect_list(impression).over(by_time.rowsBetween(-_MAX_EARLIER, -1)).alias("_earlier"),
    )
    shown_at, next_at = F.col("_shown.shown_at"), F.col("_next.shown_at")
    # The first impression with an id also matches earlier clicks.
    matches = (F.col("_first") | (shown_at <= F.col("ts"))) & (next_at.isNull() | (F.col("ts") < next_at))
    joined = clicks.select("impression_id", "ts", "ds").join(
        shown, (F.col("impression_id") == F.col("_id")) & matches, "left"
    )
    micros, window = F.unix_micros("ts"), int(window_hours * 3_600_000_000)

    def is_recent(at: Column) -> Column:
        return F.unix_micros(at) >= micros - WINDOWS * window

    def is_soon(at: Column) -> Column:
        return (at > F.col("ts")) & (F.unix_micros(at) <= micros + window)

    has_begun = (shown_at <= F.col("ts")) & is_recent(shown_at)
    logged = F.filter("_earlier", lambda other: (other["shown_ds"] <= F.col("ds")) & is_recent(other["shown_at"]))
    found = F.coalesce(
        F.when(has_begun & (F.col("_shown.shown_ds") <= F.col("ds")), F.col("_shown")),
        F.when(shown_at <= F.col("ts"), F.try_element_at(logged, F.lit(-1))),
        F.when(has_begun | is_soon(shown_at), F.col("_shown")),
        F.when(is_soon(next_at), F.col("_next")),
    )
    joined = joined.select("impression_id", "ts", "ds", found.alias("_found"))
    joined = joined.select("impression_id", "ts", "ds", "_found.*")
    delay = F.unix_micros("ts") - F.unix_micros("shown_at")
    timing = (
        F.when(F.col("shown_at").isNull(), ORPHAN).when(delay < 0, EARLY).when(delay > window, LATE).otherwise(MATCHED)
    )
    click_known = compute_known_time(zone, F.unix_micros("ts"), F.col("ds"))
    known = compute_known_time(zone, click_known, F.col("shown_ds"))
    # The first log day decides, so that a click that arrives later does not replace one that is known already.
    by_day = (F.greatest("ds", "shown_ds"), F.col("known"), F.col("ts"), F.col("ds"))
    order = Window.partitionBy("impression_id", "shown_at", "shown_ds", "timing").orderBy(*by_day)
    is_repeated = (F.col("timing") == MATCHED) & (F.row_number().over(order) > 1)
    status = F.when(is_repeated, REPEATED).otherwise(F.col("timing")).alias("status")
    return joined.withColumns({"timing": timing, "known": known}).select(
        "impression_id", "ts", "ds", "shown_at", "shown_ds", "domain", "known", status
    )


def count_clicks(matches: DataFrame) -> DataFrame:
    """Return the ledger entries of clicks.

    Args:
        matches: Clicks with their matches, from `match_clicks`.

    Returns:
        One row per day of the click (`ds`), `domain` (`unknown` without an impression) and status (`reason`), with
        `rows_in`, the number of clicks, and `rows_out`, the number of clicks that set a label.
    """
    return (
        matches.groupBy("ds", F.coalesce("domain", F.lit("unknown")).alias("domain"), F.col("status").alias("reason"))
        .agg(F.count("*").alias("rows_in"))
        .withColumn("rows_out", F.when(F.col("reason") == MATCHED, F.col("rows_in")).otherwise(F.lit(0)))
    )
