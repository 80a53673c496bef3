"""Read the events of some log days."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.contracts.dates import BEFORE_FIRST_DAY
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.features import Sequence
from star_ctr.conf.settings.label import LabelFromClicks
from star_ctr.conf.settings.root import Settings
from star_ctr.features.point_in_time.attribution import label_matched
from star_ctr.features.point_in_time.events import EVENT_COLUMNS, LOG_DAY, UNTIMED, build_events, name_weight_column
from star_ctr.features.point_in_time.known_times import find_start
from star_ctr.jobs.history.inputs import (
    add_columns,
    collect_read_columns,
    list_history_features,
    read_behaviours,
    read_impressions,
)
from star_ctr.jobs.history.matches import match_days
from star_ctr.jobs.io.log_times import read_time_ranges
from star_ctr.jobs.io.warehouse import WarehouseTables


def read_events(
    settings: Settings, store: WarehouseTables, days: Collection[str], with_earlier: bool = False
) -> DataFrame:
    """Read the events of some log days.

    Args:
        settings: The data set.
        store: The tables.
        days: The log days. `before` stands for the behaviours before the first day.
        with_earlier: Whether to read events of earlier log days too, if they became known on one of these days or
            later, because their time is later than their log day.

    Returns:
        The events, with `user_id`, the columns that statistics and sequences read, EVENT_COLUMNS and the weights.
    """
    features, dated = list_history_features(settings), sorted(set(days) - {BEFORE_FIRST_DAY})
    is_wanted = _select_days(settings, store, "impressions", days, with_earlier)
    impressions = read_impressions(settings, store, is_wanted, features)
    clicked = None
    if isinstance(settings.label, LabelFromClicks) and dated:
        matches = match_days(settings, store, settings.label, dated, dated[-1], all_day=with_earlier)
        is_new = F.greatest("ds", "shown_ds").isin(dated)
        if with_earlier:
            is_new |= (F.col("known") >= _start(settings, dated)) & (F.greatest("ds", "shown_ds") <= dated[-1])
        # The status needs all matches, so select those of the days afterwards.
        may_match = (F.col("ds") <= dated[-1]) & matches.is_near
        shown = read_impressions(settings, store, may_match, features).drop("label")
        labeled = label_matched(shown, matches.rows.where(is_new))
        clicked = add_columns(settings, store, labeled.where(F.col("clicked_at").isNotNull()), features)
    shown = add_columns(settings, store, impressions, features)
    _reject_lists(settings, shown)
    behaviours, needs_all = None, False
    if settings.logs.behaviours:
        # The weight of a behaviour without a time may depend on all behaviours that were known by its day.
        has_also = any(kind.also for kind in settings.history.values())
        needs_all = has_also and not set(dated).isdisjoint(store.list_days("behaviours"))
        is_known = (F.col("ds") == BEFORE_FIRST_DAY) | (F.col("ds") <= dated[-1]) if needs_all else F.lit(False)
        is_wanted = _select_days(settings, store, "behaviours", days, with_earlier)
        behaviours = read_behaviours(settings, store, is_wanted | is_known)
    events = build_events(settings, shown, clicked, behaviours)
    events = events.select(
        *sorted({*(c.flat for c in collect_read_columns(features)), "user_id"}),
        *EVENT_COLUMNS,
        *(name_weight_column(kind) for kind in settings.history),
    )
    is_of_days = F.col(LOG_DAY).isin(list(days))
    if not with_earlier:
        return events.where(is_of_days)
    return events.where(is_of_days | (F.col("t") != UNTIMED)) if needs_all else events


def _select_days(
    settings: Settings, store: WarehouseTables, log: str, days: Collection[str], with_earlier: bool
) -> Column:
    """Return the condition that selects the rows of some log days; see `read_events` for `with_earlier`."""
    is_wanted = F.col("ds").isin(sorted(days))
    dated = sorted(set(days) - {BEFORE_FIRST_DAY})
    if not with_earlier or not dated:
        return is_wanted
    # List the earlier log days explicitly, so that Spark prunes all other partitions. A recorded day may be off by one,
    # because the time zone of the settings may have changed since.
    times, start = read_time_ranges(settings, log), dt.date.fromisoformat(dated[0]) - dt.timedelta(days=1)
    earlier = [d for d in store.list_days(log) if d < dated[-1] and (d not in times or times[d][1] >= start)]
    return is_wanted | (F.col("ds").isin(earlier) & (F.unix_micros("ts") >= _start(settings, dated)))


def _start(settings: Settings, days: list[str]) -> Column:
    return find_start(settings.zone, F.lit(days[0]).cast("date"))


def _reject_lists(settings: Settings, events: DataFrame) -> None:
    """Raise `DataError` if a sequence reads a column of lists, because it needs one value per event."""
    lists = {name for name, kind in events.dtypes if kind.startswith("array")}
    for sequence in settings.select_features(Sequence):
        if found := [c for c in sequence.columns if c.flat in lists]:
            raise DataError(f"features.{sequence.name}: `{found[0]}` holds lists, but a sequence needs single values")
