"""Features: labelled, domain-tagged rows with everything known at the impression's time, one partition a day.

Builds the days of the training window and `ds`, from all history that the tables hold.

    spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/features.py --conf conf/kuairand.yaml
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.days import BEFORE_FIRST_DAY, valid_day, window
from star_ctr.conf.errors import DataError
from star_ctr.conf.features import AnyFeature, Column, Numeric, Sequence, Statistic, columns_read, flat
from star_ctr.conf.identity import features_hash
from star_ctr.conf.logs import LabelFromClicks
from star_ctr.conf.names import IDENTITY
from star_ctr.conf.settings import Settings
from star_ctr.features import attribution
from star_ctr.features.attributes import join_attributes
from star_ctr.features.columns import require
from star_ctr.features.passes import InArrow, add_history
from star_ctr.features.timeline import OF_EVENTS, events, weight, with_time_columns
from star_ctr.jobs.session import submitted
from star_ctr.jobs.store import Store, among, by_day


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> dict[str, int]:
    """Write the features of the window's days and `ds`; returns the rows by day."""
    store = Store(settings, spark)
    there = store.days("impressions")
    ds = valid_day(ds) if ds else there[-1]
    days = [day for day in window(settings, ds) if day in there]
    if ds not in days:
        raise DataError(f"{store.warehouse.table('impressions')}: holds no day {ds}; run `star-ctr ingest --ds {ds}`")
    _write_fates(settings, store, ds)
    rows = labelled(settings, store, ds).where(F.col("ds").isin(days))
    rows = with_columns(settings, store, rows, settings.features)
    rows = rows.select(*IDENTITY, *own_columns(settings))
    with as_known(settings, store, rows, ds) as rows:
        rows = rows.withColumn("settings", F.lit(features_hash(settings)))
        store.replace("features", by_day(rows).sortWithinPartitions("ds", "ts", "impression_id"), among("ds", days))
    written = store.read("features").where(F.col("ds").isin(days)).groupBy("ds", "domain").count().persist()
    entries = written.select(
        "ds", "domain", F.col("count").alias("rows_in"), F.col("count").alias("rows_out"), F.lit("").alias("reason")
    )
    try:
        store.write_ledger("features", entries, days)
        return {row.ds: row["sum(count)"] for row in written.groupBy("ds").sum("count").orderBy("ds").collect()}
    finally:
        written.unpersist()


def labelled(settings: Settings, store: Store, ds: str) -> DataFrame:
    """The impressions up to day `ds`, labelled; with `clicked_at` where the label comes from clicks."""
    impressions = store.read("impressions").where(F.col("ds") <= ds)
    if isinstance(settings.label, LabelFromClicks):
        return attribution.attribute(impressions, store.read("clicks"), settings.label.window_hours)
    return impressions


def with_columns(settings: Settings, store: Store, impressions: DataFrame, features: Iterable[AnyFeature]) -> DataFrame:
    """Impressions with the columns that `features` read: hour and weekday, those of their log, attributes."""
    read = _read_by(features)
    return _with_attributes(settings, store, _with_context(with_time_columns(settings, impressions), read), read)


@contextmanager
def as_known(
    settings: Settings, store: Store, rows: DataFrame, ds: str, then: InArrow | None = None
) -> Iterator[DataFrame]:
    """`rows` (of days up to `ds`, with `own_columns`) with the statistics and sequences known at each one's cut.

    With `then`, what that makes of them. Histories are those that the tables hold; rows need not be among them.

    All passes over the events read what the first one kept of them: the rows are to be written within the block.
    """
    if not settings.history:
        yield rows.mapInArrow(*then) if then else rows
        return
    told = [f for f in settings.features if isinstance(f, Statistic | Sequence)]
    read, behaviours = _read_by(told), None
    if settings.logs.behaviours:
        reached = (F.col("ds") <= ds) | (F.col("ds") == BEFORE_FIRST_DAY)
        behaviours = _with_attributes(settings, store, store.read("behaviours").where(reached), read, only="items")
    clicked, impressions = None, labelled(settings, store, ds)
    if isinstance(settings.label, LabelFromClicks):
        # That an impression was shown needs no click: the join with clicks is for the few that were clicked.
        clicked = with_columns(settings, store, impressions.where(F.col("clicked_at").isNotNull()), told)
        impressions = store.read("impressions").where(F.col("ds") <= ds)
    known = events(settings, with_columns(settings, store, impressions, told), clicked, behaviours)
    known = known.select(
        *sorted({*map(flat, read), "user_id"}), *OF_EVENTS, *(weight(kind) for kind in settings.history)
    ).persist()
    try:
        yield add_history(settings, rows, known, then)
    finally:
        known.unpersist()


def _write_fates(settings: Settings, store: Store, ds: str) -> None:
    """The fate of every click in the ledger."""
    if not isinstance(settings.label, LabelFromClicks):
        return
    impressions = store.read("impressions").where(F.col("ds") <= ds)
    fates = attribution.click_fates(impressions, store.read("clicks"), settings.label.window_hours)
    days = [day for day in store.days("clicks") if day <= ds]
    if days:
        store.write_ledger("attribute", attribution.counted(fates.where(F.col("ds") <= ds)), days)


def _read_by(features: Iterable[AnyFeature]) -> set[Column]:
    return {column for feature in features for column in columns_read(feature)}


def _with_context(impressions: DataFrame, read: set[Column]) -> DataFrame:
    """Impressions with those columns of their own log that are read, under the features table's names."""
    own = sorted(c for c in read if c.startswith("impressions."))
    require(impressions, {c: c.partition(".")[2] for c in own}, "features")
    return impressions.select("*", *(F.col(f"`{c.partition('.')[2]}`").alias(flat(c)) for c in own))


def _with_attributes(
    settings: Settings, store: Store, rows: DataFrame, read: set[Column], only: str | None = None
) -> DataFrame:
    """Rows with the attributes that are read, as known on their day."""
    for table, key in (("users", "user_id"), ("items", "item_id")):
        log = getattr(settings.logs, table)
        wanted = sorted(c.partition(".")[2] for c in read if c.startswith(f"{table}."))
        if log is None or not wanted or (only and only != table):
            continue
        attributes = store.read(table)
        require(attributes, {f"{table}.{column}": column for column in wanted}, "features")
        rows = join_attributes(rows, attributes, key, table, wanted, log.as_of)
    return rows


def own_columns(settings: Settings) -> list[SparkColumn]:
    """Columns that features read of their own row, beyond those that every row has."""
    numeric = {f.column for f in settings.of_kind(Numeric)}
    own = {c for f in settings.features if not isinstance(f, Sequence) for c in columns_read(f)}
    columns = []
    for column in sorted(own):
        if column in IDENTITY:
            continue
        value = F.col(flat(column)).try_cast("double") if column in numeric else F.col(flat(column)).cast("string")
        columns.append(value.alias(flat(column)))
    return columns


if __name__ == "__main__":
    submitted("features", run)
