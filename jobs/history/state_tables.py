"""The tables of the state of the history, `history_counts` and `history_events`, by partition."""

from __future__ import annotations

from collections.abc import Iterable

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.contracts.dates import BEFORE_FIRST_DAY
from star_ctr.conf.settings.features import Sequence
from star_ctr.conf.settings.root import Settings
from star_ctr.features.point_in_time.daily_counts import (
    GROUP,
    KEY,
    list_groups,
    list_sum_columns,
    merge_days,
    sum_by_day,
)
from star_ctr.features.point_in_time.daily_lists import EVENTS, SEQUENCE, USER, list_by_day, merge_lists
from star_ctr.features.point_in_time.events import LOG_DAY
from star_ctr.features.point_in_time.expiry import DAY, FIRST, LAST
from star_ctr.jobs.history.expired_keys import write_expired_keys
from star_ctr.jobs.history.log_days import LogDays
from star_ctr.jobs.history.roll_ups import Partition, count_days, group_by_span
from star_ctr.jobs.io.warehouse import WarehouseTables, make_in_condition

_NAMES = {
    GROUP: "group", KEY: "key", DAY: "day", SEQUENCE: "sequence", USER: "user_id", EVENTS: "events",
    FIRST: "first_seen", LAST: "last_seen",
}  # fmt: skip
"""Stored name of each internal column."""


class StateTables:
    """The tables that a data set needs: sums for statistics, last events for sequences.

    Args:
        settings: The data set.
        store: The tables of the warehouse.
        log_days: The log days.
    """

    def __init__(self, settings: Settings, store: WarehouseTables, log_days: LogDays) -> None:
        self.settings, self.store, self.log_days = settings, store, log_days
        self.groups, self.expire_days = list_groups(settings), settings.state.expire_days
        has_lists = bool(settings.select_features(Sequence))
        self.names = [*(["history_counts"] if self.groups else []), *(["history_events"] if has_lists else [])]
        self.versions: dict[str, int] = {}
        """The versions to read, by table; the newest version of the others."""

    def all_exist(self) -> bool:
        """Return whether all tables exist."""
        return all(map(self.store.exists, self.names))

    def get_newest_versions(self) -> dict[str, int]:
        """Return the newest version of each table that exists."""
        return {table: self.store.get_version(table) for table in self.names if self.store.exists(table)}

    def compute(self, events: DataFrame) -> dict[str, DataFrame]:
        """Compute the rows of each table from events. The column LOG_DAY contains the log day."""
        found = {}
        if "history_counts" in self.names:
            found["history_counts"] = sum_by_day(self.settings, events, self.groups)
        if "history_events" in self.names:
            found["history_events"] = list_by_day(self.settings, events)
        return found

    def read(self, table: str, partitions: Iterable[Partition]) -> DataFrame:
        """Read partitions of a table, with stored columns renamed to their internal names."""
        rows = self.store.read(table, self.versions.get(table)).where(_make_condition(partitions))
        rows = rows.withColumnsRenamed({stored: name for name, stored in _NAMES.items() if stored in rows.columns})
        return self._add_seen_days(rows, "ds")

    def write(self, table: str, rows: DataFrame, partitions: Iterable[Partition]) -> None:
        """Replace partitions of a table with `rows`, which have `span`, `ds` and internal column names."""
        names = {name: stored for name, stored in _NAMES.items() if name in rows.columns}
        renamed = rows.withColumnsRenamed(names)
        order = [c for c in ("group", "key", "sequence", "user_id") if c in renamed.columns]
        arranged = renamed.hint("rebalance", "span", "ds").sortWithinPartitions("span", "ds", *order)
        self.store.replace(table, arranged, _make_condition(partitions))

    def remove(self, partitions: Iterable[Partition]) -> None:
        """Remove partitions of all tables."""
        condition = _make_condition(partitions)
        for table in self.names:
            self.store.replace(table, self.store.read(table).limit(0), condition)

    def merge(self, table: str, rows: DataFrame, end: Column, partitions: list[Partition]) -> None:
        """Merge rows and write them.

        Args:
            table: The table.
            rows: The rows; `ds` is that of the partition into which a row is merged.
            end: The day after the last log day of the row's partition, as days since 1970.
            partitions: The partitions to write, all with the same span.
        """
        if table == "history_counts":
            merged = merge_days(self.settings, rows, self.groups, end, ["ds"])
        else:
            merged = merge_lists(self.settings, rows, end, ["ds"])
        self.write(table, merged.withColumn("span", F.lit(partitions[0].span)), partitions)
        if self.expire_days is not None:
            write_expired_keys(self.store, table, rows, self.read(table, partitions), partitions)

    def select(self, table: str, rows: DataFrame) -> DataFrame:
        """Select the columns of stored or computed rows that features are computed from."""
        columns = [SEQUENCE, USER, DAY, EVENTS]
        if table == "history_counts":
            columns = [GROUP, KEY, DAY, *list_sum_columns(self.settings, self.groups)]
        if self.expire_days is not None:
            columns += [FIRST, LAST]
            rows = self._add_seen_days(rows, LOG_DAY) if LOG_DAY in rows.columns else rows
        return rows.select(*columns)

    def _add_seen_days(self, rows: DataFrame, day: str) -> DataFrame:
        """Add FIRST and LAST, the first and last log day of the events, if keys expire."""
        if self.expire_days is None:
            return rows
        # Behaviours before the first day count as seen on the first day.
        first = min((count_days(day) for day in self.log_days.hashes if day != BEFORE_FIRST_DAY), default=0)
        seen = F.coalesce(F.unix_date(F.col(day).try_cast("date")), F.lit(first))
        columns = {}
        for name in (FIRST, LAST):
            is_stored = name in rows.columns and "span" in rows.columns
            columns[name] = F.when(F.col("span") > 1, F.col(name)).otherwise(seen) if is_stored else seen
        return rows.withColumns(columns)


def _make_condition(partitions: Iterable[Partition]) -> str:
    """Return the SQL condition that selects partitions."""
    groups = group_by_span(partitions).items()
    return " OR ".join(f"(span = {span} AND {make_in_condition('ds', days)})" for span, days in groups)
