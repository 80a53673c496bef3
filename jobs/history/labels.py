"""The labels of impressions by day, in the table `labels`.

A label is final when its attribution window has closed, clicked or not. Until then, it is open: each night computes it
again from the clicks that are known by then. Labels from a column of the impression log are always final.

If the settings declare them, the table also contains the further outcomes (`label.also`) and the weights of the
impressions. An outcome is null until its window has closed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.contracts.column_names import name_outcome_label
from star_ctr.conf.contracts.run_id import hash_label_settings, hash_outcome_settings
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.label import LabelFromClicks
from star_ctr.conf.settings.root import Settings
from star_ctr.features.cleaning.label_values import add_outcomes
from star_ctr.features.cleaning.weights import add_weights
from star_ctr.features.point_in_time import attribution
from star_ctr.jobs.history.matches import match_days
from star_ctr.jobs.io.day_records import DayRecord, DayRecords
from star_ctr.jobs.io.label_records import (
    AS_OF,
    CLOSES,
    LABEL_HASH,
    LABEL_SETTINGS,
    OUTCOME_SETTINGS,
    OUTCOMES_CLOSE,
    PART,
    WEIGHT,
    find_days_with_other_columns,
    find_labels_of_other_nights,
)
from star_ctr.jobs.io.table_hashes import HASH, hash_days
from star_ctr.jobs.io.warehouse import (
    LedgerEntry,
    WarehouseTables,
    collect_ledger_entries,
    make_in_condition,
    repartition_by_day,
)

_MIN_EVENTS = 20
"""Number of events from which it is an error if none of them belongs to an impression."""
_NAMED = 10
"""Maximum number of events that a message names."""


def write_labels(settings: Settings, store: WarehouseTables, planned: Mapping[str, str], ds: str) -> None:
    """Write the labels of some days, the ledger entries of the clicks of these days, and the records of the days.

    Args:
        settings: The data set.
        store: The tables.
        planned: The days, with the hash of what determines their labels.
        ds: The last log day of clicks to read.
    """
    days, records, label = sorted(planned), DayRecords(settings), settings.label
    records.remove(PART, days)
    impressions = add_weights(settings, store.read("impressions").where(F.col("ds").isin(days)))
    impressions = _add_event_outcomes(settings, store, add_outcomes(settings, impressions), days, ds)
    weight = settings.logs.impressions.weight
    outcomes = [name_outcome_label(name) for name in label.outcomes]
    more = [*(["weight"] if weight else []), *outcomes]
    closes = F.col("ds")
    matches = None
    if isinstance(label, LabelFromClicks):
        closes = attribution.compute_closing_day(label.window_hours, settings.zone)
        matches = match_days(settings, store, label, days, ds).rows.persist()
        columns = ("impression_id", "ts", "ds", "domain", *more)
        impressions = attribution.label_matched(impressions.select(*columns), matches)
    try:
        is_final = (closes <= F.lit(ds)).alias("is_final")
        as_of = F.lit(ds).alias("as_of")
        rows = impressions.select("impression_id", "domain", "label", is_final, as_of, *more, "ds")
        arranged = repartition_by_day(rows).sortWithinPartitions("ds", "impression_id")
        store.replace("labels", arranged, make_in_condition("ds", days))
        if matches is not None:
            entries = collect_ledger_entries(attribution.count_clicks(matches.where(F.col("ds").isin(days))))
            store.write_ledger("attribute", entries, make_in_condition("ds", days))
    finally:
        if matches is not None:
            matches.unpersist()
    records.write(PART, _make_records(settings, store, planned, ds, closes, more))


def _add_event_outcomes(
    settings: Settings, store: WarehouseTables, impressions: DataFrame, days: Sequence[str], ds: str
) -> DataFrame:
    """Add the further outcomes that come from events; null for those that are not final on night `ds`."""
    for name, outcome in settings.label.outcome_events.items():
        matches = match_days(settings, store, outcome, days, ds, event=outcome.event or name).rows
        entries = collect_ledger_entries(attribution.count_clicks(matches.where(F.col("ds").isin(list(days)))))
        entries = [entry._replace(reason=attribution.name_event_status(entry.reason)) for entry in entries]
        store.write_ledger(f"attribute.{name}", entries, make_in_condition("ds", days))
        _check_events(store, name, outcome.event or name, entries, ds)
        matched = matches.where((F.col("status") == attribution.MATCHED) & F.col("shown_ds").isin(list(days)))
        keys = matched.select("impression_id", F.col("shown_at").alias("ts"), F.col("shown_ds").alias("ds"))
        is_final = attribution.compute_closing_day(outcome.window_hours, settings.zone) <= F.lit(ds)
        found = F.coalesce("_found", F.lit(0.0))
        impressions = (
            impressions.join(keys.withColumn("_found", F.lit(1.0)), ["impression_id", "ts", "ds"], "left")
            .withColumn(name_outcome_label(name), F.when(is_final, found))
            .drop("_found")
        )
    return impressions


def _check_events(store: WarehouseTables, outcome: str, event: str, entries: Iterable[LedgerEntry], ds: str) -> None:
    """Check that the log has events of an outcome. Without any, all impressions would count as negative.

    Args:
        store: The tables.
        outcome: The name of the outcome.
        event: The name of its events.
        entries: The ledger entries of the events of the days whose labels are computed.
        ds: The night.

    Raises:
        DataError: The log has no events of the outcome, or none of them belongs to an impression.
    """
    entries = list(entries)
    total, matched = sum(e.rows_in for e in entries), sum(e.rows_out for e in entries)
    events = store.read("events").where(F.col("ds") <= ds)
    if total == 0 and events.where(F.col("event") == event).isEmpty():
        found = sorted(row.event for row in events.select("event").distinct().limit(_NAMED).collect())
        raise DataError(
            f"label.also.{outcome}: `logs.events` has no event `{event}` up to {ds} (found: "
            f"{', '.join(found) or 'no events'}); correct `event`, or remove the outcome"
        )
    if total >= _MIN_EVENTS and matched == 0:
        raise DataError(
            f"label.also.{outcome}: none of the {total:,} events `{event}` belongs to an impression that was shown "
            "before it; check that logs.events.impression and logs.impressions.id contain the same ids, and the zones "
            "of their times"
        )


def _make_records(
    settings: Settings,
    store: WarehouseTables,
    planned: Mapping[str, str],
    ds: str,
    closes: Column,
    more: Sequence[str],
) -> dict[str, DayRecord]:
    """Return the records of days whose labels were written.

    Args:
        settings: The data set.
        store: The tables.
        planned: As for `write_labels`.
        ds: As for `write_labels`.
        closes: The day at whose end the label of an impression is final.
        more: The optional columns of `labels`: the weight and the further outcomes.
    """
    days, label, weight = sorted(planned), settings.label, settings.logs.impressions.weight
    windows = {name: outcome.window_hours for name, outcome in label.outcome_events.items()}
    closing = {name: attribution.compute_closing_day(hours, settings.zone) for name, hours in windows.items()}
    last = [F.max(column).alias(f"closes_{k}") for k, column in enumerate([closes, *closing.values()])]
    times = store.read("impressions").where(F.col("ds").isin(days)).groupBy("ds").agg(*last)
    found = {row.ds: list(row[1:]) for row in times.collect()}
    columns = ("impression_id", "label", "is_final")
    hashes = hash_days(store, "labels", days, (*columns, *more))
    same = {AS_OF: ds, LABEL_SETTINGS: hash_label_settings(settings)} | ({WEIGHT: weight} if weight else {})
    outputs = {day: {**same, CLOSES: found[day][0] if day in found else day, HASH: hashes.get(day, "")} for day in days}
    if label.also:
        label_hashes = hash_days(store, "labels", days, columns)
        for day in days:
            last_days = dict.fromkeys(label.outcomes, day)
            last_days |= dict(zip(closing, found[day][1:], strict=True)) if day in found else {}
            outputs[day] |= {OUTCOMES_CLOSE: last_days, OUTCOME_SETTINGS: hash_outcome_settings(settings)}
            outputs[day] |= {LABEL_HASH: label_hashes.get(day, "")}
    return {day: DayRecord(planned[day], outputs[day]) for day in days}


def remove_labels(settings: Settings, store: WarehouseTables, days: Collection[str]) -> None:
    """Remove the labels of days that no longer have impressions."""
    DayRecords(settings).remove(PART, days)
    store.replace("labels", store.read("labels").limit(0), make_in_condition("ds", sorted(days)))


def add_labels(store: WarehouseTables, rows: DataFrame, days: Collection[str], ds: str) -> DataFrame:
    """Add the labels to rows of `features`.

    Args:
        store: The tables.
        rows: Rows with `ds` and `impression_id`.
        days: The days of the rows.
        ds: The night.

    Returns:
        The rows with `label` and `label_final`; with `weight`, if the settings declare a weight; and with a column for
        each further outcome, null if it is not known.

    Raises:
        DataError: The labels are those of another night, or their number differs from the number of rows of a day, or
            the weights come from another column, or the further outcomes were computed with other settings.
    """
    table = store.warehouse.table("labels")
    if others := find_days_with_other_columns(store.settings, days):
        raise DataError(
            f"{table}: {', '.join(others)} were computed with another logs.impressions.weight or label.also; run "
            f"`star-ctr features --ds {ds}`"
        )
    for day, night in find_labels_of_other_nights(store.settings, ds, days).items():
        found = f"those of night {night}" if night else "not recorded, because a step was killed"
        raise DataError(f"{table}: the labels of {day} are {found}; run `star-ctr features --ds {ds}`")
    labels = store.read("labels").where(F.col("ds").isin(sorted(days)))
    # A warehouse of an earlier version may have a column `label` in `features`.
    rows = rows.drop("label")
    counts = rows.groupBy("ds").count().join(labels.groupBy("ds").agg(F.count("*").alias("labels")), "ds", "full")
    for row in counts.orderBy("ds").collect():
        if row["count"] != row["labels"]:
            raise DataError(
                f"{table}: {row['labels'] or 0:,} labels for the {row['count'] or 0:,} rows "
                f"of {row['ds']} in `features`; run `star-ctr features --ds {row['ds']} --full`"
            )
    more = [*(["weight"] if store.settings.logs.impressions.weight else [])]
    more += map(name_outcome_label, store.settings.label.outcomes)
    labels = labels.select("ds", "impression_id", "label", F.col("is_final").alias("label_final"), *more)
    return rows.join(labels, ["ds", "impression_id"])
