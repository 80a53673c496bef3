"""Count the keys of the state that expire when partitions are merged."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pyspark.sql import DataFrame

from star_ctr.features.point_in_time.daily_counts import GROUP, KEY
from star_ctr.features.point_in_time.daily_lists import SEQUENCE, USER
from star_ctr.jobs.history.roll_ups import EPOCH, Partition, count_days, format_day
from star_ctr.jobs.io.warehouse import LedgerEntry, WarehouseTables, make_in_condition

_logger = logging.getLogger(__name__)
_KEYS = {"history_counts": [GROUP, KEY], "history_events": [SEQUENCE, USER]}
"""The columns of a key in each table."""


def write_expired_keys(
    store: WarehouseTables, table: str, read: DataFrame, written: DataFrame, partitions: Sequence[Partition]
) -> None:
    """Count the kept and the expired keys of merged partitions in the ledger.

    Args:
        store: The tables.
        table: The table of the state.
        read: The rows that were merged; `ds` is the first day of the partition into which they were merged.
        written: The rows of the partitions.
        partitions: The partitions, all with the same span.
    """
    before, after = _count_keys(table, read), _count_keys(table, written)
    reason = f"not seen for more than {store.settings.state.expire_days} days"
    entries = []
    for span, ds in partitions:
        last, n_read, n_kept = format_day(count_days(ds) + span - 1), before.get(ds, 0), after.get(ds, 0)
        _logger.info("%s: %d of %d keys had expired at the end of %s", table, n_read - n_kept, n_read, last)
        entries += [LedgerEntry(last, "all", n_kept, n_kept, ""), LedgerEntry(last, "all", n_read - n_kept, 0, reason)]
    days = sorted({entry.ds for entry in entries})
    step = f"{table}.{'base' if partitions[0].ds == EPOCH else partitions[0].span}"
    store.write_ledger(step, [entry for entry in entries if entry.rows_in], make_in_condition("ds", days))


def _count_keys(table: str, rows: DataFrame) -> dict[str, int]:
    """Count the keys of each partition."""
    return {r.ds: r["count"] for r in rows.select("ds", *_KEYS[table]).distinct().groupBy("ds").count().collect()}
