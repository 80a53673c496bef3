"""Matches of clicks with impressions, for some log days. Only rows whose times are near those of the days are read."""

from __future__ import annotations

from collections.abc import Collection
from functools import reduce
from typing import NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.settings.label import LabelFromClicks, OutcomeEvents
from star_ctr.conf.settings.root import Settings
from star_ctr.features.point_in_time.attribution import WINDOWS, match_clicks
from star_ctr.features.point_in_time.known_times import find_start
from star_ctr.jobs.io.warehouse import WarehouseTables


class Matches(NamedTuple):
    """Clicks matched with impressions.

    Attributes:
        rows: The matches; see `attribution.match_clicks`.
        is_near: Condition on `ts` that every matched impression meets. Others need not be read.
    """

    rows: DataFrame
    is_near: Column


def match_days(
    settings: Settings,
    store: WarehouseTables,
    label: LabelFromClicks | OutcomeEvents,
    days: Collection[str],
    until: str,
    all_day: bool = False,
    event: str | None = None,
) -> Matches:
    """Match all clicks of some log days, and all clicks on the impressions of these log days.

    The result also has matches of other days, which may be incomplete.

    Args:
        settings: The data set.
        store: The tables.
        label: The label, or a further outcome.
        days: The log days.
        until: The last log day of clicks and impressions to read.
        all_day: Whether to match all clicks whose time is on one of these days, too, whatever their log day.
        event: Name of the events to match instead of clicks; None to match clicks.

    Returns:
        The matches.
    """
    impressions = store.read("impressions").where(F.col("ds") <= until)
    clicks = store.read("clicks") if event is None else store.read("events").where(F.col("event") == event)
    clicks = clicks.where(F.col("ds") <= until)
    is_wanted = F.col("ds").isin(sorted(days))
    times = (rows.where(is_wanted).agg(F.min("ts"), F.max("ts")).first() for rows in (impressions, clicks))
    bounds = [found for found in times if found is not None and found[0] is not None]
    window = F.make_dt_interval(secs=F.lit(label.window_hours * 3600.0))
    # A click depends on impressions up to two windows before and one window after it, and they on all their clicks.
    near = [_is_between(first, last, (WINDOWS + 1) * window) for first, last in bounds]
    if all_day:
        first, last = (find_start(settings.zone, F.lit(day).cast("date")) for day in (min(days), max(days)))
        end = F.timestamp_micros(last) + F.expr("INTERVAL 2 DAYS")
        near.append(_is_between(F.timestamp_micros(first), end, (WINDOWS + 1) * window))
    is_near = reduce(lambda a, b: a | b, near, F.lit(False))
    columns = ("impression_id", "ts", "ds")
    rows = match_clicks(
        impressions.where(is_near).select(*columns, "domain"),
        clicks.where(is_near).select(*columns),
        label.window_hours,
        settings.zone,
    )
    return Matches(rows, is_near)


def _is_between(first: object, last: object, margin: Column) -> Column:
    """Return a condition that `ts` is between two times, or at most `margin` away."""
    return (F.col("ts") >= F.lit(first) - margin) & (F.col("ts") <= F.lit(last) + margin)
