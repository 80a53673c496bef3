"""Build the events and cuts from which point-in-time features are computed.

Events: each event counts from the time at which it became known. For an impression and its outcomes this is the time of
the impression, for a click of a click log the time of the click. But a row is not known before its log day, so an event
whose time is earlier than its log day counts from the start of its log day. Events before the first day, which have no
time, come before all others.

Query rows: each impression asks for its features as of a cut. The cut `time` is the time of the impression, and the cut
`day` the start of its log day, or of the calendar day of its time if that is earlier. No cut is later than the end of
the log day. So the features of a day depend only on log days up to this day, and do not change when later days arrive.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from star_ctr.conf.contracts.column_ref import escape_column_name
from star_ctr.conf.settings.features import (
    AnyFeature,
    History,
    Sequence,
    Statistic,
    list_read_columns,
)
from star_ctr.conf.settings.label import LabelColumn
from star_ctr.conf.settings.root import Settings
from star_ctr.features.cleaning.first_seen import order_days
from star_ctr.features.cleaning.raw_rows import union_frames
from star_ctr.features.point_in_time.known_times import compute_known_time, find_start

SCALE = 1_000_000
"""Scale of event weights: outcomes are summed as integer millionths, so sums do not depend on the order of rows."""

LARGEST_OUTCOME = 1e12
"""Largest absolute value of an outcome.

Larger values count as missing, like NaN and infinity: otherwise a single broken row would dominate a sum. In
millionths, this value fits into 64 bits.
"""

UNTIMED = 0
"""Time, in microseconds, of events before the first day, which have no known time."""

LOG_DAY = "_log_day"
"""Event column with the log day that made the event known. A click needs its own row and that of its impression."""
EVENT_COLUMNS = ("t", "order", "tie", LOG_DAY)
"""Columns of every event: its time in microseconds, two columns that order events of the same time, and LOG_DAY."""


def name_weight_column(kind: str) -> str:
    """Return the name of the event column with the weight of a kind of history, an integer in millionths."""
    return f"_n_{kind}"


def name_outcome_column(outcome: str) -> str:
    """Return the name of the event column for an outcome of the impression log."""
    return f"_outcome_{escape_column_name(outcome)}"


def add_time_columns(settings: Settings, rows: DataFrame) -> DataFrame:
    """Add `hour` (00 to 23) and `weekday` (1 is Monday, 7 is Sunday) of `ts` in the time zone `zone`, as strings."""
    local = F.from_utc_timestamp("ts", settings.zone)
    return rows.withColumn("hour", F.date_format(local, "HH")).withColumn(
        "weekday", (F.weekday(local) + 1).cast("string")
    )


def compute_cut(settings: Settings) -> Column:
    """Return the cut `time` of a row, in microseconds: its time, but at most the end of its log day.

    An event counts if it is strictly earlier. For the cut `day`, see `daily_counts.compute_cut_day`.
    """
    return F.least(F.unix_micros("ts"), find_start(settings.zone, F.date_add(F.to_date("ds"), 1)))


def build_events(
    settings: Settings, impressions: DataFrame, clicked: DataFrame | None, behaviours: DataFrame | None
) -> DataFrame:
    """Build the events of all declared kinds of `history`.

    Args:
        settings: The data set.
        impressions: Impressions with `hour`, `weekday`, the outcomes under their `name_outcome_column`, and `label` if
            the label is a column.
        clicked: Clicked impressions with the columns of `attribution.add_labels`, if the label comes from a click log.
        behaviours: Rows of the behaviour log, if there is one. If they have a column LOG_DAY, `ds` is only the day as
            of which they have attributes.

    Returns:
        Events with `user_id`, the columns that statistics and sequences read, EVENT_COLUMNS, and one weight column per
        kind. Each event has a nonzero weight for at least one kind.
    """
    label_column = settings.label.column if isinstance(settings.label, LabelColumn) else None
    impression_weights: dict[str, Column] = {}
    click_kinds: list[str] = []
    for name, kind in settings.history.items():
        outcome = "label" if kind.outcome == label_column else kind.outcome
        if kind.impressions:
            impression_weights[name] = F.lit(SCALE)
        elif outcome == "label" and label_column is None:
            click_kinds.append(name)
        elif outcome:
            impression_weights[name] = _weigh_outcome(
                F.col("label") if outcome == "label" else F.col(f"`{name_outcome_column(outcome)}`")
            )
    columns = {
        "user_id",
        *(c.flat for f in settings.features if _is_history(f) for c in list_read_columns(f)),
    }

    def make(
        rows: DataFrame, time: Column, weights: dict[str, Column], tie: Column, order: Column, day: Column
    ) -> DataFrame:
        # A log may contain columns named `t` or `order`: keep only those that features read.
        kept = [c for c in rows.columns if c in columns]
        return _make_events(settings, rows, kept, time, weights, tie, order, day)

    # Events that became known at the same time are in the order of their own times.
    time = F.unix_micros("ts")
    known = compute_known_time(settings.zone, time, F.col("ds"))
    ds = F.col("ds")
    frames = [make(impressions, known, impression_weights, F.col("impression_id"), time, ds)]
    if click_kinds and clicked is not None:
        ones = {name: F.lit(SCALE) for name in click_kinds}
        clicked_at = F.unix_micros("clicked_at")
        known_at, id_ = F.unix_micros("click_known"), F.col("impression_id")
        frames.append(make(clicked, known_at, ones, id_, clicked_at, F.col("click_day")))
    if behaviours is not None:
        behaviour_kinds = {n: k for n, k in settings.history.items() if k.behaviours}
        if behaviour_kinds:
            day = F.col(LOG_DAY) if LOG_DAY in behaviours.columns else ds
            needed = {"user_id", "item_id", "behaviour", "ts", "order", "ds", LOG_DAY}
            behaviours = behaviours.select(*(c for c in behaviours.columns if c in columns | needed))
            others = sorted({k.also for k in behaviour_kinds.values() if k.also})
            behaviours = _add_other_behaviours(behaviours, others, order_days(day))
            weights = {name: _weigh_behaviour(kind, order_days(day)) for name, kind in behaviour_kinds.items()}
            known = compute_known_time(settings.zone, time, day)
            timed = F.when(time.isNotNull(), known).otherwise(F.lit(UNTIMED))
            dated = add_time_columns(settings, behaviours)
            tie, order = F.concat_ws("/", "item_id", "behaviour"), F.coalesce(time, "order", F.lit(0))
            frames.append(make(dated, timed, weights, tie, order, day))
    return union_frames(frames)


def _is_history(feature: AnyFeature) -> bool:
    """Return whether a feature is computed from events."""
    return isinstance(feature, Statistic | Sequence)


def _weigh_outcome(outcome: Column) -> Column:
    """Return an impression's outcome in millionths, 0 if it is missing."""
    value = outcome.try_cast("double")
    return F.when(F.abs(value) <= LARGEST_OUTCOME, F.round(value * SCALE)).otherwise(F.lit(0.0))


_OTHERS = "_other_behaviours"


def _add_other_behaviours(behaviours: DataFrame, names: list[str], day: Column) -> DataFrame:
    """Add a list of the behaviours in `names` that were known for the same user and item by the day of each row."""
    if not names:
        return behaviours
    pair = ["user_id", "item_id"]
    others = behaviours.where(F.col("behaviour").isin(names)).groupBy(*pair, "behaviour").agg(F.min(day).alias("day"))
    others = others.groupBy(*pair).agg(F.map_from_entries(F.collect_list(F.struct("behaviour", "day"))).alias(_OTHERS))
    known = F.map_keys(F.map_filter(_OTHERS, lambda _, first: first <= day))
    return behaviours.join(others, pair, "left").withColumn(_OTHERS, known)


def _weigh_behaviour(kind: History, day: Column) -> Column:
    """Return the weight of a behaviour for a kind, in millionths, from the behaviours known by its day."""
    value = F.lit(1.0)
    if kind.also:
        value = F.coalesce(F.array_contains(_OTHERS, kind.also), F.lit(False)).cast("double")
    if kind.less:
        value = value - F.avg(value).over(Window.partitionBy(kind.less, "behaviour").orderBy(day))
    is_kind = F.col("behaviour") == F.lit(kind.behaviours)
    return F.when(is_kind, F.round(value * SCALE)).otherwise(F.lit(0))


def _make_events(
    settings: Settings,
    rows: DataFrame,
    columns: list[str],
    time: Column,
    weights: dict[str, Column],
    tie: Column,
    order: Column,
    day: Column,
) -> DataFrame:
    """Convert rows of one log to events and drop those without a nonzero weight.

    Args:
        settings: The data set.
        rows: Rows of the log.
        columns: The columns of `rows` to keep.
        time: Time from which an event counts, in microseconds.
        weights: Weight by kind of history, in millionths; 0 for all other kinds.
        tie: Second order column for events of the same time.
        order: First order column for events of the same time.
        day: Log day of the event.

    Returns:
        The events: `columns`, EVENT_COLUMNS and one weight column per kind of history.
    """
    kinds = [weights.get(name, F.lit(0)).cast("long").alias(name_weight_column(name)) for name in settings.history]
    events = rows.select(
        *(F.col(f"`{c}`") for c in columns),
        time.alias("t"),
        order.cast("long").alias("order"),
        tie.alias("tie"),
        day.alias(LOG_DAY),
        *kinds,
    )
    largest = (
        F.greatest(*(F.abs(name_weight_column(n)) for n in settings.history))
        if len(settings.history) > 1
        else F.abs(name_weight_column(next(iter(settings.history))))
    )
    return events.where(largest > 0)
