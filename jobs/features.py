"""Features: impressions with all features as of the time of each impression, and their labels.

Writes the days of the training window and the day `ds` to `features`, with one partition per day. A day is computed
once: it is computed again only if its log, an earlier log or the settings have changed.

Writes their labels to `labels`. The labels of a day are computed again on each night until all of its attribution
windows have closed.

Statistics and sequences use the whole history in the tables up to the day, in the form of the state in
`history_counts` and `history_events`.

    spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/features.py --conf conf/kuairand.yaml
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.contracts.column_names import IDENTITY_COLUMNS
from star_ctr.conf.contracts.dates import check_day, list_window_days
from star_ctr.conf.contracts.run_id import hash_features_settings
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.features.point_in_time.attributes import name_match_column
from star_ctr.features.point_in_time.row_columns import find_unparsable, select_row_columns
from star_ctr.features.point_in_time.scan_planner import ArrowFunction, add_history
from star_ctr.jobs.history.day_plan import PART, DayPlan, plan_days
from star_ctr.jobs.history.inputs import ATTRIBUTE_KEYS, add_columns, find_cut_days, read_impressions
from star_ctr.jobs.history.labels import remove_labels, write_labels
from star_ctr.jobs.history.state import HistoryState
from star_ctr.jobs.io.day_records import DayRecords
from star_ctr.jobs.io.session import run_submitted_step
from star_ctr.jobs.io.warehouse import (
    LedgerEntry,
    WarehouseTables,
    make_in_condition,
    repartition_by_day,
)
from star_ctr.jobs.quality.day_checks import check_labels, read_click_entries
from star_ctr.jobs.quality.profile import UNPARSED_COLUMN, check_numbers, count_domains, count_rows, write_profile

_logger = logging.getLogger(__name__)


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
    window = list_window_days(settings, ds)
    days = [day for day in window if day in stored_days]
    if ds not in days:
        raise DataError(f"{store.warehouse.table('impressions')}: no rows for {ds}; run `star-ctr ingest --ds {ds}`")
    with ExitStack() as stack:
        state = HistoryState(settings, store, ds)
        state.update(stack)
        plan = plan_days(settings, store, state, window, stored_days)
        if plan.labeled:
            _logger.info("features: computing the labels of %s", ", ".join(sorted(plan.labeled)))
            write_labels(settings, store, plan.labeled, ds)
        if plan.computed or plan.removed:
            _logger.info("features: computing %s", ", ".join(plan.computed))
            _write_days(settings, store, state, plan)
    if plan.removed:
        remove_labels(settings, store, plan.removed)
    domains = count_domains(store.read("labels").where(F.col("ds").isin(days)))
    written = count_rows(store.read("features").where(F.col("ds").isin(days)))
    entries = [LedgerEntry(d.ds, d.domain, d.rows, written.get((d.ds, d.domain), 0), "") for d in domains]
    store.write_ledger("features", entries, make_in_condition("ds", window))
    clicks = read_click_entries(settings, window)
    events = {name: read_click_entries(settings, window, name) for name in settings.label.outcome_events}
    measures = write_profile(settings, store, ds, window, domains, clicks, events)
    check_numbers(settings, measures)
    check_labels(settings, store, ds, [c for c in clicks if c.ds == ds], [d for d in domains if d.ds == ds])
    return {day: sum(e.rows_out for e in entries if e.ds == day) for day in sorted({e.ds for e in entries})}


def _write_days(settings: Settings, store: WarehouseTables, state: HistoryState, plan: DayPlan) -> None:
    """Write the features of the planned days, and then their records."""
    changed, records = sorted([*plan.computed, *plan.removed]), DayRecords(settings)
    records.remove(PART, changed)
    if plan.computed:
        rows, logged = _select_rows(settings, store, list(plan.computed)), store.read("impressions")
        # The cuts depend only on the log, so they need none of the joins of the rows.
        cut_days = find_cut_days(settings, logged.where(F.col("ds").isin(list(plan.computed))))
        with add_point_in_time(settings, state, rows, cut_days) as computed:
            computed = computed.withColumn("settings", F.lit(hash_features_settings(settings)))
            arranged = repartition_by_day(computed).sortWithinPartitions("ds", "ts", "impression_id")
            store.replace("features", arranged, make_in_condition("ds", changed))
    else:
        store.replace("features", store.read("features").limit(0), make_in_condition("ds", changed))
    records.write(PART, plan.computed)


def _select_rows(settings: Settings, store: WarehouseTables, days: Sequence[str]) -> DataFrame:
    """Return the impressions of some days with their attributes and the columns that features read."""
    impressions = read_impressions(settings, store, F.col("ds").isin(list(days)), settings.features)
    rows = add_columns(settings, store, impressions, settings.features)
    match_columns = [name_match_column(table) for table in ATTRIBUTE_KEYS if name_match_column(table) in rows.columns]
    return rows.select(
        *IDENTITY_COLUMNS,
        *select_row_columns(settings, rows),
        *match_columns,
        find_unparsable(settings, rows).alias(UNPARSED_COLUMN),
    )


@contextmanager
def add_point_in_time(
    settings: Settings,
    state: HistoryState,
    rows: DataFrame,
    cut_days: Iterable[int],
    more_rows: int = 0,
    postprocess: ArrowFunction | None = None,
) -> Iterator[DataFrame]:
    """Add the statistics and sequences as of the cut of each row.

    The history comes from the tables; `rows` need not be in them. Caches are dropped at the end of the `with` block:
    write the result inside the block.

    Args:
        settings: The settings of the data set.
        state: The state of the history up to the last day of events.
        rows: Rows of days up to this day, with the columns of `select_row_columns`.
        cut_days: The days of the cuts of the rows, from `find_cut_days`.
        more_rows: The number of rows that are not in the tables.
        postprocess: A function on the rows with all features (for example, a scorer), and its output schema. It runs
            inside the last scan, so that lists need not pass through Spark. By default, the rows are returned.

    Yields:
        The rows with the added columns, or the result of `postprocess`.
    """
    if not settings.history:
        yield rows.mapInArrow(*postprocess) if postprocess else rows
        return
    with ExitStack() as stack:
        history = state.open(cut_days)
        history = history._replace(size=(history.size or 0) + more_rows)
        yield add_history(settings, rows, history, stack, postprocess)


if __name__ == "__main__":
    run_submitted_step("features")
