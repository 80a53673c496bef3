"""The labels of impressions by day, in the table `labels`.

A label is final when its attribution window has closed, clicked or not. Until then, it is open: each night computes it
again from the clicks that are known by then. Labels from a column of the impression log are always final.

The table also contains the weights of the impressions, if the settings declare a weight.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.contracts.run_id import hash_label_settings
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.label import LabelFromClicks
from star_ctr.conf.settings.root import Settings
from star_ctr.features.cleaning.weights import add_weights
from star_ctr.features.point_in_time import attribution
from star_ctr.jobs.history.matches import match_days
from star_ctr.jobs.io.day_records import DayRecord, DayRecords
from star_ctr.jobs.io.label_records import (
    AS_OF,
    CLOSES,
    LABEL_SETTINGS,
    PART,
    WEIGHT,
    find_days_of_other_weights,
    find_labels_of_other_nights,
)
from star_ctr.jobs.io.table_hashes import HASH, hash_days
from star_ctr.jobs.io.warehouse import (
    WarehouseTables,
    collect_ledger_entries,
    make_in_condition,
    repartition_by_day,
)


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
    weight = settings.logs.impressions.weight
    weights = ("weight",) if weight else ()
    closes = F.col("ds")
    matches = None
    if isinstance(label, LabelFromClicks):
        closes = attribution.compute_closing_day(label.window_hours, settings.zone)
        matches = match_days(settings, store, label, days, ds).rows.persist()
        columns = ("impression_id", "ts", "ds", "domain", *weights)
        impressions = attribution.label_matched(impressions.select(*columns), matches)
    try:
        is_final = (closes <= F.lit(ds)).alias("is_final")
        as_of = F.lit(ds).alias("as_of")
        rows = impressions.select("impression_id", "domain", "label", is_final, as_of, *weights, "ds")
        arranged = repartition_by_day(rows).sortWithinPartitions("ds", "impression_id")
        store.replace("labels", arranged, make_in_condition("ds", days))
        if matches is not None:
            entries = collect_ledger_entries(attribution.count_clicks(matches.where(F.col("ds").isin(days))))
            store.write_ledger("attribute", entries, make_in_condition("ds", days))
    finally:
        if matches is not None:
            matches.unpersist()
    times = store.read("impressions").where(F.col("ds").isin(days)).groupBy("ds")
    last = {row.ds: row.closes for row in times.agg(F.max(closes).alias("closes")).collect()}
    hashes = hash_days(store, "labels", days, ("impression_id", "label", "is_final", *weights))
    same = {AS_OF: ds, LABEL_SETTINGS: hash_label_settings(settings)} | ({WEIGHT: weight} if weight else {})
    outputs = {day: {**same, CLOSES: last.get(day, day), HASH: hashes.get(day, "")} for day in days}
    records.write(PART, {day: DayRecord(planned[day], outputs[day]) for day in days})


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
        The rows with `label` and `label_final`, and `weight` if the settings declare a weight.

    Raises:
        DataError: The labels are those of another night, or their number differs from the number of rows of a day, or
            the weights come from another column.
    """
    table = store.warehouse.table("labels")
    if others := find_days_of_other_weights(store.settings, days):
        raise DataError(
            f"{table}: {', '.join(others)} were computed with another logs.impressions.weight; run "
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
    weights = ("weight",) if store.settings.logs.impressions.weight else ()
    labels = labels.select("ds", "impression_id", "label", F.col("is_final").alias("label_final"), *weights)
    return rows.join(labels, ["ds", "impression_id"])
