"""The columns of the logs that features read, with the attributes of users and items."""

from __future__ import annotations

from collections.abc import Iterable

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.contracts.column_names import IDENTITY_COLUMNS
from star_ctr.conf.contracts.column_ref import ColumnRef
from star_ctr.conf.contracts.dates import BEFORE_FIRST_DAY, list_days_before
from star_ctr.conf.settings.features import AnyFeature, Sequence, Statistic, Vector, list_read_columns
from star_ctr.conf.settings.root import Settings
from star_ctr.features.cleaning.log_columns import get_column, name_table_column, require_columns
from star_ctr.features.cleaning.vectors import name_unparsable, parse_vectors
from star_ctr.features.encoding.scoring_rows import CARRIED
from star_ctr.features.point_in_time.attributes import join_attributes
from star_ctr.features.point_in_time.daily_counts import compute_cut_day
from star_ctr.features.point_in_time.events import LOG_DAY, add_time_columns, name_outcome_column
from star_ctr.jobs.io.warehouse import WarehouseTables

ATTRIBUTE_KEYS = {"users": "user_id", "items": "item_id"}
"""The attribute tables, and the column of `features` that holds the key of each."""


def list_history_features(settings: Settings) -> list[Statistic | Sequence]:
    """Return the features that are computed from earlier events."""
    return [f for f in settings.features if isinstance(f, Statistic | Sequence)]


def collect_read_columns(features: Iterable[AnyFeature]) -> set[ColumnRef]:
    """Return the declared columns that features read."""
    return {column for feature in features for column in list_read_columns(feature)}


def read_impressions(
    settings: Settings, store: WarehouseTables, where: Column, features: Iterable[AnyFeature]
) -> DataFrame:
    """Read the impressions that meet a condition, with the columns of `select_columns`."""
    return select_columns(settings, store.read("impressions").where(where), features)


def select_columns(settings: Settings, rows: DataFrame, features: Iterable[AnyFeature]) -> DataFrame:
    """Select the columns of impressions that features and histories need.

    These are IDENTITY_COLUMNS, `label` if it is a column, the log columns that `features` read, and the outcomes that
    `history` uses.

    Returns:
        The rows with these columns. Log columns are renamed (`ColumnRef.flat`, `name_outcome_column`), so that columns
        that are computed later (`hour`, `label`, `clicked_at` ...) do not replace them.

    Raises:
        DataError: A column is missing.
    """
    existing = set(rows.columns)
    read = sorted(c for c in collect_read_columns(features) if c.table == "impressions")
    wanted = {c.flat: c.column for c in read}
    stored = {name: name_table_column(settings, "impressions", column) for name, column in wanted.items()}
    require_columns(existing, {f"impressions.{wanted[n]}": c for n, c in stored.items()}, "features")
    outcomes = {k.outcome for k in settings.history.values() if k.outcome} & set(settings.logs.impressions.outcomes)
    kept = {name_outcome_column(o): name_table_column(settings, "impressions", o) for o in sorted(outcomes)}
    stored |= {name: column for name, column in kept.items() if column in existing}
    plain = [c for c in (*IDENTITY_COLUMNS, "label", CARRIED) if c in existing]
    rows = rows.select(*plain, *(get_column(column).alias(name) for name, column in stored.items()))
    return parse_vectors(rows, _list_vectors(settings, read))


def add_columns(
    settings: Settings, store: WarehouseTables, impressions: DataFrame, features: Iterable[AnyFeature]
) -> DataFrame:
    """Add `hour`, `weekday` and the attributes that `features` read; `impressions` comes from `select_columns`."""
    return _add_attributes(settings, store, add_time_columns(settings, impressions), collect_read_columns(features))


def read_behaviours(settings: Settings, store: WarehouseTables, where: Column) -> DataFrame:
    """Read the behaviours that meet a condition, with the attributes of their items that histories read.

    Args:
        settings: The data set.
        store: The tables.
        where: The condition.

    Returns:
        The behaviours with LOG_DAY. `ds` is only the day of the attributes.
    """
    rows = store.read("behaviours").where(where)
    rows = rows.select("user_id", "item_id", "behaviour", "ts", "order", "ds", F.col("ds").alias(LOG_DAY))
    if settings.logs.items is None:
        return rows
    join_day = F.lit(find_undated_join_day(settings, store))
    rows = rows.withColumn("ds", F.when(F.col("ds") == BEFORE_FIRST_DAY, join_day).otherwise(F.col("ds")))
    return _add_attributes(settings, store, rows, collect_read_columns(list_history_features(settings)), only="items")


def find_undated_join_day(settings: Settings, store: WarehouseTables) -> str:
    """Return the day as of which behaviours without a time get the attributes of their items.

    They happened before the first day of impressions, so they must not see snapshots of that day.
    """
    log, first = settings.logs.items, store.list_days("impressions")[0]
    return first if log is not None and log.as_of == "day_before" else list_days_before(first, 1)[0]


def _add_attributes(
    settings: Settings, store: WarehouseTables, rows: DataFrame, read: set[ColumnRef], only: str | None = None
) -> DataFrame:
    """Add the attributes in `read` as of the day of each row; `only` limits them to one attribute table."""
    for table, key in ATTRIBUTE_KEYS.items():
        log = getattr(settings.logs, table)
        wanted = sorted(c for c in read if c.startswith(f"{table}."))
        if log is None or not wanted or (only and only != table):
            continue
        attributes = store.read(table)
        stored = {c.flat: name_table_column(settings, table, c.column) for c in wanted}
        require_columns(attributes.columns, {c: stored[c.flat] for c in wanted}, "features")
        # Parse each snapshot once, and not each row that it is joined with.
        vectors = {stored[name]: vector for name, vector in _list_vectors(settings, wanted).items()}
        stored |= {name_unparsable(name): name_unparsable(stored[name]) for name in _list_vectors(settings, wanted)}
        rows = join_attributes(rows, parse_vectors(attributes, vectors), key, table, stored, log.as_of)
    return rows


def _list_vectors(settings: Settings, read: Iterable[ColumnRef]) -> dict[str, Vector]:
    """Return the features that read columns as vectors, by the names of these columns in `features`."""
    columns = set(read)
    return {f.column.flat: f for f in settings.select_features(Vector) if f.column in columns}


def find_cut_days(settings: Settings, rows: DataFrame) -> list[int]:
    """Return the distinct days of the cuts of rows with `ts` and `ds`, as days since 1970; none without a history."""
    if not settings.history:
        return []
    return sorted(row[0] for row in rows.select(compute_cut_day(settings.zone)).distinct().collect())
