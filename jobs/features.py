"""Features: labeled impressions with all features as of the time of each impression.

Writes the days of the training window and the day `ds` to `features`, with one partition per day. Statistics and
sequences use the whole history in the tables up to `ds`, not only that of the window.

    spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/features.py --conf conf/kuairand.yaml
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.contracts.column_names import IDENTITY_COLUMNS
from star_ctr.conf.contracts.column_ref import ColumnRef
from star_ctr.conf.contracts.dates import BEFORE_FIRST_DAY, check_day, list_days_before, list_window_days
from star_ctr.conf.contracts.run_id import hash_features_settings
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.features import AnyFeature, Sequence, Statistic, list_read_columns
from star_ctr.conf.settings.label import LabelFromClicks
from star_ctr.conf.settings.root import Settings
from star_ctr.features.cleaning.log_columns import get_column, name_table_column, require_columns
from star_ctr.features.encoding.scoring_rows import CARRIED
from star_ctr.features.point_in_time import attribution
from star_ctr.features.point_in_time.attributes import join_attributes, name_match_column
from star_ctr.features.point_in_time.events import (
    EVENT_COLUMNS,
    add_time_columns,
    build_events,
    name_outcome_column,
    name_weight_column,
)
from star_ctr.features.point_in_time.row_columns import find_unparsable, select_row_columns
from star_ctr.features.point_in_time.scan_planner import ArrowFunction, add_history
from star_ctr.jobs.io.session import run_submitted_step
from star_ctr.jobs.io.warehouse import (
    LedgerEntry,
    WarehouseTables,
    collect_ledger_entries,
    make_in_condition,
    repartition_by_day,
)
from star_ctr.jobs.quality.day_checks import check_labels
from star_ctr.jobs.quality.profile import UNPARSED_COLUMN, check_numbers, count_domains, write_profile

ATTRIBUTE_KEYS = {"users": "user_id", "items": "item_id"}
"""The attribute tables, and the column of `features` that holds the key of each."""


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> dict[str, int]:
    """Write the features of the window's days and of `ds` (by default the newest day of `impressions`).

    Returns:
        The number of rows by day.

    Raises:
        DataError: `impressions` has no rows for `ds`, or the day has implausible labels or too many unparsable numbers
            (`checks`). These checks run after all tables are written, so that the tables can be inspected.
    """
    store = WarehouseTables(settings, spark)
    stored_days = store.list_days("impressions")
    ds = check_day(ds) if ds else store.get_newest_day("impressions")
    # Replace all days of the window, including days whose log was withdrawn.
    window = list_window_days(settings, ds)
    days = [day for day in window if day in stored_days]
    if ds not in days:
        raise DataError(f"{store.warehouse.table('impressions')}: no rows for {ds}; run `star-ctr ingest --ds {ds}`")
    clicks = _write_click_matches(settings, store, ds)
    rows = label_rows(settings, store, read_impressions(settings, store, ds, settings.features), ds)
    rows = add_columns(settings, store, rows.where(F.col("ds").isin(days)), settings.features)
    match_columns = [name_match_column(table) for table in ATTRIBUTE_KEYS if name_match_column(table) in rows.columns]
    rows = rows.select(
        *IDENTITY_COLUMNS,
        *select_row_columns(settings, rows),
        *match_columns,
        find_unparsable(settings, rows).alias(UNPARSED_COLUMN),
    )
    with add_point_in_time(settings, store, rows, ds) as rows:
        rows = rows.withColumn("settings", F.lit(hash_features_settings(settings)))
        store.replace(
            "features",
            repartition_by_day(rows).sortWithinPartitions("ds", "ts", "impression_id"),
            make_in_condition("ds", window),
        )
    domains = count_domains(store.read("features").where(F.col("ds").isin(days)))
    entries = [LedgerEntry(d.ds, d.domain, d.rows, d.rows, "") for d in domains]
    store.write_ledger("features", entries, make_in_condition("ds", window))
    measures = write_profile(settings, store, ds, window, domains, clicks)
    check_numbers(settings, measures)
    check_labels(settings, store, ds, [c for c in clicks if c.ds == ds], [d for d in domains if d.ds == ds])
    return {day: sum(e.rows_out for e in entries if e.ds == day) for day in sorted({e.ds for e in entries})}


def read_impressions(settings: Settings, store: WarehouseTables, ds: str, features: Iterable[AnyFeature]) -> DataFrame:
    """Read the impressions up to day `ds` with the columns of `select_columns`."""
    return select_columns(settings, store.read("impressions").where(F.col("ds") <= ds), features)


def select_columns(settings: Settings, rows: DataFrame, features: Iterable[AnyFeature]) -> DataFrame:
    """Select IDENTITY_COLUMNS, the log columns that `features` read, and the outcomes that `history` uses.

    Returns:
        The rows with these columns. Log columns are renamed (`ColumnRef.flat`, `name_outcome_column`), so that columns
        that are computed later (`hour`, `label`, `clicked_at` ...) do not replace them.

    Raises:
        DataError: A column is missing.
    """
    existing = set(rows.columns)
    read = sorted(c for c in _collect_read_columns(features) if c.table == "impressions")
    wanted = {c.flat: c.column for c in read}
    stored = {name: name_table_column(settings, "impressions", column) for name, column in wanted.items()}
    require_columns(existing, {f"impressions.{wanted[n]}": c for n, c in stored.items()}, "features")
    outcomes = {k.outcome for k in settings.history.values() if k.outcome} & set(settings.logs.impressions.outcomes)
    kept = {name_outcome_column(o): name_table_column(settings, "impressions", o) for o in sorted(outcomes)}
    stored |= {name: column for name, column in kept.items() if column in existing}
    plain = [c for c in (*IDENTITY_COLUMNS, CARRIED) if c in existing]
    return rows.select(*plain, *(get_column(column).alias(name) for name, column in stored.items()))


def label_rows(settings: Settings, store: WarehouseTables, impressions: DataFrame, ds: str) -> DataFrame:
    """Add `label` (0.0 or 1.0) and `clicked_at` from the clicks up to `ds`; unchanged if `label` is a log column."""
    if isinstance(settings.label, LabelFromClicks):
        window, clicks = settings.label.window_hours, _read_clicks(store, ds)
        return attribution.add_labels(impressions.drop("label"), clicks, window, settings.zone)
    return impressions


def _read_clicks(store: WarehouseTables, ds: str) -> DataFrame:
    """Read the clicks up to day `ds`, so that a night that runs again after later ones gets the same labels."""
    return store.read("clicks").where(F.col("ds") <= ds)


def add_columns(
    settings: Settings, store: WarehouseTables, impressions: DataFrame, features: Iterable[AnyFeature]
) -> DataFrame:
    """Add `hour`, `weekday` and the attributes that `features` read; `impressions` comes from `select_columns`."""
    return _add_attributes(settings, store, add_time_columns(settings, impressions), _collect_read_columns(features))


@contextmanager
def add_point_in_time(
    settings: Settings, store: WarehouseTables, rows: DataFrame, ds: str, postprocess: ArrowFunction | None = None
) -> Iterator[DataFrame]:
    """Add the statistics and sequences as of the cut of each row.

    The events come from the tables; `rows` need not be in them. All scans share a cache of the events, which is dropped
    at the end of the `with` block: write the result inside the block.

    Args:
        settings: The settings of the data set.
        store: The tables.
        rows: Rows of days up to `ds`, with the columns of `select_row_columns`.
        ds: The last day of events.
        postprocess: A function on the rows with all features (for example, a scorer), and its output schema. It runs
            inside the last scan, so that lists need not pass through Spark. By default, the rows are returned.

    Yields:
        The rows with the added columns, or the result of `postprocess`.
    """
    if not settings.history:
        yield rows.mapInArrow(*postprocess) if postprocess else rows
        return
    history_features = [f for f in settings.features if isinstance(f, Statistic | Sequence)]
    read = _collect_read_columns(history_features)
    behaviours = _read_behaviours(settings, store, ds, read) if settings.logs.behaviours else None
    clicked, impressions = None, read_impressions(settings, store, ds, history_features)
    if isinstance(settings.label, LabelFromClicks):
        # Only the few clicked impressions need the join with clicks; events of shown impressions do not.
        labeled = label_rows(settings, store, impressions, ds)
        clicked = add_columns(settings, store, labeled.where(F.col("clicked_at").isNotNull()), history_features)
    shown = add_columns(settings, store, impressions, history_features)
    _reject_lists(settings, shown)
    events = build_events(settings, shown, clicked, behaviours)
    events = events.select(
        *sorted({*(c.flat for c in read), "user_id"}),
        *EVENT_COLUMNS,
        *(name_weight_column(kind) for kind in settings.history),
    ).persist()
    with ExitStack() as stack:
        stack.callback(events.unpersist)
        yield add_history(settings, rows, events, stack, postprocess)


def _reject_lists(settings: Settings, events: DataFrame) -> None:
    """Raise `DataError` if a sequence reads a column of lists, because it needs one value per event."""
    lists = {name for name, kind in events.dtypes if kind.startswith("array")}
    for sequence in settings.select_features(Sequence):
        if found := [c for c in sequence.columns if c.flat in lists]:
            raise DataError(f"features.{sequence.name}: `{found[0]}` holds lists, but a sequence needs single values")


def _read_behaviours(settings: Settings, store: WarehouseTables, ds: str, read: set[ColumnRef]) -> DataFrame:
    """Read the behaviours up to day `ds`, with the attributes of their items."""
    is_included = (F.col("ds") <= ds) | (F.col("ds") == BEFORE_FIRST_DAY)
    rows = store.read("behaviours").where(is_included).select("user_id", "item_id", "behaviour", "ts", "order", "ds")
    log, first = settings.logs.items, store.list_days("impressions")[0]
    if log is None:
        return rows
    # Behaviours without a time happened before the first day, so they must not match snapshots of that day.
    join_day = first if log.as_of == "day_before" else list_days_before(first, 1)[0]
    day = F.when(F.col("ds") == BEFORE_FIRST_DAY, F.lit(join_day)).otherwise(F.col("ds"))
    return _add_attributes(settings, store, rows.withColumn("ds", day), read, only="items")


def _write_click_matches(settings: Settings, store: WarehouseTables, ds: str) -> list[LedgerEntry]:
    """Write the status of all clicks (matched, or why not) to the ledger; returns its entries."""
    if not isinstance(settings.label, LabelFromClicks):
        return []
    impressions = store.read("impressions").where(F.col("ds") <= ds)
    matches = attribution.match_clicks(impressions, _read_clicks(store, ds), settings.label.window_hours, settings.zone)
    days = [day for day in store.list_days("clicks") if day <= ds]
    if not days:
        return []
    entries = collect_ledger_entries(attribution.count_clicks(matches))
    store.write_ledger("attribute", entries, make_in_condition("ds", days))
    return entries


def _collect_read_columns(features: Iterable[AnyFeature]) -> set[ColumnRef]:
    return {column for feature in features for column in list_read_columns(feature)}


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
        rows = join_attributes(rows, attributes, key, table, stored, log.as_of)
    return rows


if __name__ == "__main__":
    run_submitted_step("features")
