"""Events and requests: what happened, and the moments as of which the features of a row are known.

A request is an impression with its cut: the impression's own time, or the start of its log day where that is
earlier (a log day can be later than the time of its rows, so a cut by day is min(t, start of the log day)).
An event is known from its own time on: an impression from its time, a click from the click's time. What
lies before the first day without times comes before everything.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from star_ctr.conf.settings.features import (
    AnyFeature,
    Cut,
    History,
    Sequence,
    Statistic,
    flatten_column_name,
    list_read_columns,
)
from star_ctr.conf.settings.label import LabelColumn
from star_ctr.conf.settings.root import Settings
from star_ctr.features.cleaning.clean_log import union_frames

SCALE = 1_000_000
"""Outcomes are summed as whole millionths: sums of integers are the same in whatever order they come."""

LARGEST_OUTCOME = 1e12
"""Outcomes with a larger absolute value count as missing, like NaN and infinity: a single broken row would otherwise
dominate a sum. In units of one millionth, this value fits into 64 bits."""

UNTIMED = 0
"""The time, in microseconds, of what lies before the first day."""

OF_EVENTS = ("t", "order", "tie")
"""What every event has: its time in microseconds, and what comes first of those of one time."""


def name_weight_column(kind: str) -> str:
    """The column that holds how much of a kind of history an event is, in millionths."""
    return f"_n_{kind}"


def name_outcome_column(outcome: str) -> str:
    """Return the name of the event column for an outcome of the impression log."""
    return f"_outcome_{outcome}"


def add_time_columns(settings: Settings, rows: DataFrame) -> DataFrame:
    """`rows` with `hour` and `weekday` (1 Monday to 7) of `ts` in the data set's zone, as text."""
    local = F.from_utc_timestamp("ts", settings.zone)
    return rows.withColumn("hour", F.date_format(local, "HH")).withColumn(
        "weekday", (F.weekday(local) + 1).cast("string")
    )


def compute_cut(settings: Settings, cut: Cut) -> Column:
    """The cut of a row in microseconds since 1970: an event counts if it is strictly earlier."""
    time = F.unix_micros("ts")
    if cut == "time":
        return time
    start = F.unix_micros(F.to_utc_timestamp(F.to_timestamp("ds", "yyyy-MM-dd"), settings.zone))
    return F.least(time, start)


def build_events(
    settings: Settings, impressions: DataFrame, clicked: DataFrame | None, behaviours: DataFrame | None
) -> DataFrame:
    """Build the events of all declared kinds of `history`.

    `impressions`: with `hour`, `weekday`, the outcomes under their `name_outcome_column`, and `label` if it is a column;
    `clicked`: if the label comes from clicks, the clicked impressions with `clicked_at`.
    Returns `user_id`, the columns that statistics and sequences read, `t` (microseconds), `order`, `tie` and one weight
    per kind.
    """
    label_column = settings.label.column if isinstance(settings.label, LabelColumn) else None
    own: dict[str, Column] = {}
    delayed: list[str] = []
    for name, kind in settings.history.items():
        outcome = "label" if kind.outcome == label_column else kind.outcome
        if kind.impressions:
            own[name] = F.lit(SCALE)
        elif outcome == "label" and label_column is None:
            delayed.append(name)
        elif outcome:
            own[name] = _weigh_outcome(
                F.col("label") if outcome == "label" else F.col(f"`{name_outcome_column(outcome)}`")
            )
    columns = {
        "user_id",
        *(flatten_column_name(c) for f in settings.features if _is_history(f) for c in list_read_columns(f)),
    }

    def weighted(rows: DataFrame, time: Column, weights: dict[str, Column], tie: Column, order: Column) -> DataFrame:
        # A log may have its own columns named `t` or `order`: keep only those that features read.
        kept = [c for c in rows.columns if c in columns]
        return _make_events(settings, rows, kept, time, weights, tie, order)

    untimed = F.lit(0)
    frames = [weighted(impressions, F.unix_micros("ts"), own, F.col("impression_id"), untimed)]
    if delayed and clicked is not None:
        ones = {name: F.lit(SCALE) for name in delayed}
        frames.append(weighted(clicked, F.unix_micros("clicked_at"), ones, F.col("impression_id"), untimed))
    if behaviours is not None:
        named = {n: k for n, k in settings.history.items() if k.behaviours}
        if named:
            own_columns = {"user_id", "item_id", "behaviour", "ts", "order"}
            behaviours = behaviours.select(*(c for c in behaviours.columns if c in columns | own_columns))
            behaviours = _with_others(behaviours, sorted({k.also for k in named.values() if k.also}))
            weights = {name: _weigh_behaviour(kind) for name, kind in named.items()}
            time = F.coalesce(F.unix_micros("ts"), F.lit(UNTIMED))
            dated = add_time_columns(settings, behaviours)
            tie, order = F.concat_ws("/", "item_id", "behaviour"), F.coalesce("order", F.lit(0))
            frames.append(weighted(dated, time, weights, tie, order))
    return union_frames(frames)


def _is_history(feature: AnyFeature) -> bool:
    """Return whether a feature is computed from events."""
    return isinstance(feature, Statistic | Sequence)


def _weigh_outcome(outcome: Column) -> Column:
    """Return an impression's outcome in millionths, 0 if it is missing."""
    value = outcome.try_cast("double")
    return F.when(F.abs(value) <= LARGEST_OUTCOME, F.round(value * SCALE)).otherwise(F.lit(0.0))


_OTHERS = "_other_behaviours"


def _with_others(behaviours: DataFrame, names: list[str]) -> DataFrame:
    """`behaviours` with those of `names` that the row's user has of the row's item, a set (null: none)."""
    if not names:
        return behaviours
    pair = ["user_id", "item_id"]
    others = behaviours.where(F.col("behaviour").isin(names)).groupBy(*pair)
    return behaviours.join(others.agg(F.collect_set("behaviour").alias(_OTHERS)), pair, "left")


def _weigh_behaviour(kind: History) -> Column:
    """How much of a kind a behaviour is, in millionths."""
    value = F.lit(1.0)
    if kind.also:
        value = F.coalesce(F.array_contains(_OTHERS, kind.also), F.lit(False)).cast("double")
    if kind.less:
        value = value - F.avg(value).over(Window.partitionBy(kind.less, "behaviour"))
    named = F.col("behaviour") == F.lit(kind.behaviours)
    return F.when(named, F.round(value * SCALE)).otherwise(F.lit(0))


def _make_events(
    settings: Settings,
    rows: DataFrame,
    columns: list[str],
    time: Column,
    weights: dict[str, Column],
    tie: Column,
    order: Column,
) -> DataFrame:
    kinds = [weights.get(name, F.lit(0)).cast("long").alias(name_weight_column(name)) for name in settings.history]
    known = rows.select(
        *(F.col(f"`{c}`") for c in columns),
        time.alias("t"),
        order.cast("long").alias("order"),
        tie.alias("tie"),
        *kinds,
    )
    some = (
        F.greatest(*(F.abs(name_weight_column(n)) for n in settings.history))
        if len(settings.history) > 1
        else F.abs(name_weight_column(next(iter(settings.history))))
    )
    return known.where(some > 0)
