"""The state of the history: sums and last events by log day, and their roll-ups.

The state of a log day depends only on log days up to this day and does not change when later days arrive. It is two
tables, `history_counts` and `history_events`. When 8 days, or 64, are complete, they are merged into a roll-up, so that
all earlier events are a union of few partitions. A log day that is restated rewrites its own state and the roll-ups
that contain it.

All features are computed from this state, whether one day is new or all are. So the result does not depend on which
days were computed before.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import cached_property, reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.contracts.dates import BEFORE_FIRST_DAY
from star_ctr.conf.contracts.fingerprint import hash_json
from star_ctr.conf.settings.features import Sequence
from star_ctr.conf.settings.root import Settings
from star_ctr.features.point_in_time.daily_counts import (
    GROUP,
    KEY,
    Group,
    list_groups,
    list_sum_columns,
    merge_days,
    sum_by_day,
)
from star_ctr.features.point_in_time.daily_lists import EVENTS, SEQUENCE, USER, list_by_day, merge_lists
from star_ctr.features.point_in_time.events import LOG_DAY
from star_ctr.features.point_in_time.expiry import DAY, FIRST, LAST
from star_ctr.features.point_in_time.scan_planner import History
from star_ctr.jobs.history import roll_ups
from star_ctr.jobs.history.events import read_events
from star_ctr.jobs.history.expired_keys import write_expired_keys
from star_ctr.jobs.history.inputs import list_history_features
from star_ctr.jobs.history.log_days import LogDays
from star_ctr.jobs.history.roll_ups import (
    EPOCH,
    Partition,
    choose_partitions,
    count_days,
    format_day,
    is_before,
    list_bases,
    list_blocks,
    list_members,
)
from star_ctr.jobs.io.day_records import PARTS, DayRecord, DayRecords, forget_days
from star_ctr.jobs.io.warehouse import WarehouseTables, make_in_condition

_logger = logging.getLogger(__name__)
PART = "history"
"""The part of the records of log days."""
_BASE = f"{PART}.base"
"""The part of the records of bases."""
_NAMES = {
    GROUP: "group", KEY: "key", DAY: "day", SEQUENCE: "sequence", USER: "user_id", EVENTS: "events",
    FIRST: "first_seen", LAST: "last_seen",
}  # fmt: skip
"""Names of columns in the tables."""


class HistoryState:
    """The state of the log days up to a day.

    Args:
        settings: The data set.
        store: The tables.
        ds: The last log day.
    """

    def __init__(self, settings: Settings, store: WarehouseTables, ds: str) -> None:
        self.settings, self.store, self.ds = settings, store, ds
        self.records, self.log_days = DayRecords(settings), LogDays(settings, store, ds)
        self.groups, self.expire_days = list_groups(settings), settings.state.expire_days
        self.has_lists = bool(settings.select_features(Sequence))
        self.tables = [*(["history_counts"] if self.groups else []), *(["history_events"] if self.has_lists else [])]

    @property
    def days(self) -> dict[str, str]:
        """The log days, with the hash of what determines their state."""
        return self.log_days.hashes

    @property
    def contents(self) -> dict[str, dict[str, str]]:
        """The hashes of the rows of the ingested tables by day, up to the last log day."""
        return self.log_days.contents

    @cached_property
    def _stored(self) -> dict[str, DayRecord]:
        return self.records.read(PART) if all(map(self.store.exists, self.tables)) else {}

    def list_stale_days(self) -> list[str]:
        """Return the log days whose state is missing or has changed."""
        return [day for day, found in self.days.items() if day not in self._stored or self._stored[day].inputs != found]

    def hash_before(self, day: str) -> str:
        """Hash the state of all log days up to a day: the history that features of this day depend on."""
        return hash_json([found for other, found in self.days.items() if other == BEFORE_FIRST_DAY or other <= day], 16)

    def update(self) -> None:
        """Compute the state of stale log days, and the roll-ups that contain them."""
        if not self.tables:
            return
        self.log_days.record()
        if not all(map(self.store.exists, self.tables)):
            forget_days(self.settings, "features")  # the roll-ups are lost, too
        if stale := self.list_stale_days():
            _logger.info("history: computing the state of %s", ", ".join(stale))
            self.records.remove(PART, stale)
            events = read_events(self.settings, self.store, stale).persist()
            try:
                partitions = [Partition(1, day) for day in stale]
                for table, rows in self._compute(events).items():
                    self._write(table, rows.withColumn("span", F.lit(1)).withColumnRenamed(LOG_DAY, "ds"), partitions)
            finally:
                events.unpersist()
            parts = self.log_days.parts
            self.records.write(PART, {day: DayRecord(self.days[day], {PARTS: parts[day]}) for day in stale})
        gone = [day for day in self._stored if day not in self.days and day <= self.ds]
        self.records.remove(PART, gone)
        vars(self).pop("_stored", None)  # the records have changed
        for span, smaller in zip(roll_ups.SPANS, (1, *roll_ups.SPANS), strict=False):
            self._update_roll_ups(span, smaller)
        if self.expire_days is not None:
            self._update_bases()

    def _compute(self, events: DataFrame) -> dict[str, DataFrame]:
        """Return the rows of the tables from events."""
        found = {}
        if self.groups:
            found["history_counts"] = sum_by_day(self.settings, events, self.groups)
        if self.has_lists:
            found["history_events"] = list_by_day(self.settings, events)
        return found

    def _write(self, table: str, rows: DataFrame, partitions: Iterable[Partition]) -> None:
        """Replace partitions of a table."""
        names = {name: shown for name, shown in _NAMES.items() if name in rows.columns}
        renamed = rows.withColumnsRenamed(names)
        order = [c for c in ("group", "key", "sequence", "user_id") if c in renamed.columns]
        arranged = renamed.hint("rebalance", "span", "ds").sortWithinPartitions("span", "ds", *order)
        self.store.replace(table, arranged, _make_condition(partitions))

    def _update_roll_ups(self, span: int, smaller: int) -> None:
        """Merge the partitions of `smaller` days of each complete block of `span` days."""
        part, stored = f"{PART}.{span}", self._read_hashes(f"{PART}.{span}")
        blocks = list_blocks(self.days, self.ds, span)
        stale = {ds: found for ds, found in blocks.items() if stored.get(ds) != found}
        if not stale:
            return
        self.records.remove(part, list(stale))
        wanted = [member for ds in stale for member in list_members(self.days, self.ds, ds, span, smaller)]
        first = F.date_from_unix_date(F.floor(F.unix_date(F.col("ds").cast("date")) / span).cast("int") * span)
        for table in self.tables:
            rows = self._read(table, wanted).withColumn("ds", F.date_format(first, "yyyy-MM-dd"))
            end = F.unix_date(F.col("ds").cast("date")) + span
            self._merge(table, rows, end, [Partition(span, ds) for ds in stale])
        self.records.write(part, {ds: DayRecord(found, {}) for ds, found in stale.items()})

    def _update_bases(self) -> None:
        """Merge all log days up to each of the two newest ends of large roll-ups, and remove older bases."""
        stored, wanted = self._read_hashes(_BASE), list_bases(self.days, self.ds, max(roll_ups.SPANS))
        for day, inputs in wanted.items():
            if stored.get(day) == inputs:
                continue
            self.records.remove(_BASE, [day])
            end = count_days(day)
            earlier = {other: found for other, found in self.days.items() if is_before(other, end)}
            known = {span: self._read_hashes(f"{PART}.{span}") for span in roll_ups.SPANS}
            members = choose_partitions(earlier, known, format_day(end - 1), end, 0, stored)
            for table in self.tables:
                rows = self._read(table, members).withColumn("ds", F.lit(EPOCH))
                self._merge(table, rows, F.lit(end), [Partition(end, EPOCH)])
            self.records.write(_BASE, {day: DayRecord(inputs, {})})
            stored[day] = inputs
        if gone := [day for day in stored if wanted and day < min(wanted)]:
            self.records.remove(_BASE, gone)
            for table in self.tables:
                condition = _make_condition(Partition(count_days(day), EPOCH) for day in gone)
                self.store.replace(table, self.store.read(table).limit(0), condition)

    def _merge(self, table: str, rows: DataFrame, end: Column, partitions: list[Partition]) -> None:
        """Merge rows into partitions of the same span, given the day after the last day of each."""
        span = partitions[0].span
        if table == "history_counts":
            merged = merge_days(self.settings, rows, self.groups, end, ["ds"])
        else:
            merged = merge_lists(self.settings, rows, end, ["ds"])
        self._write(table, merged.withColumn("span", F.lit(span)), partitions)
        if self.expire_days is not None:
            write_expired_keys(self.store, table, rows, self._read(table, partitions), partitions)

    def list_partitions(self, first_cut: int, horizon: int) -> list[Partition]:
        """Return the partitions whose union is the state of all log days; see `choose_partitions`."""
        bases = self._read_hashes(_BASE) if self.expire_days is not None else {}
        return choose_partitions(self.days, self._roll_ups, self.ds, first_cut, horizon, bases)

    @cached_property
    def _roll_ups(self) -> dict[int, dict[str, str]]:
        return {span: self._read_hashes(f"{PART}.{span}") for span in roll_ups.SPANS}

    def _read_hashes(self, part: str) -> dict[str, str]:
        return {ds: record.inputs for ds, record in self.records.read(part).items()}

    def open(self, cut_days: Iterable[int]) -> History:
        """Open the history for rows with given days of their cuts.

        Stale log days are computed, but not written.

        Args:
            cut_days: The days of the cuts, as days since 1970.

        Returns:
            The history.
        """
        wanted, stale = sorted(cut_days), set(self.list_stale_days())
        first, last = (wanted[0], wanted[-1]) if wanted else (0, 0)
        missing = [d for d in stale if d == BEFORE_FIRST_DAY or count_days(d) < last]
        computed = self._compute(read_events(self.settings, self.store, sorted(missing))) if missing else {}
        counts = lists = None
        if self.groups:
            counts = self._union("history_counts", self._read_counts(first, stale), computed)
        if self.has_lists:
            lists = self._union("history_events", self._read_state("history_events", first, 0, stale), computed)
        is_timed = any(f.cut == "time" for f in list_history_features(self.settings))
        days = [format_day(day) for day in wanted] or [self.ds]
        events = read_events(self.settings, self.store, days, with_earlier=True) if is_timed else None
        return History(counts, lists, events, self._count_rows(days))

    def _count_rows(self, days: Iterable[str]) -> int:
        """Return the approximate number of impressions of some days and of the events that became known on them."""
        wanted, logs = set(days), ("impressions", "impressions", "clicks", "behaviours")
        found = (rows for name in logs for day, rows in self.contents[name].items() if day in wanted)
        return sum(int(rows.partition(":")[0]) for rows in found)

    def _read_counts(self, first: int, stale: set[str]) -> DataFrame | None:
        """Read the sums, with as few partitions as each group allows."""
        by_horizon: dict[int, list[Group]] = {}
        for group in self.groups:
            by_horizon.setdefault(group.horizon, []).append(group)
        frames = []
        for horizon, groups in by_horizon.items():
            rows = self._read_state("history_counts", first, horizon, stale)
            if rows is not None:
                frames.append(rows.where(F.col(GROUP).isin([group.name for group in groups])))
        return reduce(DataFrame.unionByName, frames) if frames else None

    def _read_state(self, table: str, first: int, horizon: int, stale: set[str]) -> DataFrame | None:
        if not self._stored:
            return None
        partitions = [p for p in self.list_partitions(first, horizon) if p.ds not in stale or p.span > 1]
        return self._read(table, partitions) if partitions else None

    def _union(self, table: str, stored: DataFrame | None, computed: Mapping[str, DataFrame]) -> DataFrame:
        """Return stored and computed rows with the columns that features are computed from."""
        columns = [SEQUENCE, USER, DAY, EVENTS]
        if table == "history_counts":
            columns = [GROUP, KEY, DAY, *list_sum_columns(self.settings, self.groups)]
        columns += [FIRST, LAST] if self.expire_days is not None else []
        computed = {name: self._add_seen_days(rows, LOG_DAY) for name, rows in computed.items()}
        frames = [rows.select(*columns) for rows in (stored, computed.get(table)) if rows is not None]
        if not frames:
            empty = self._compute(read_events(self.settings, self.store, []))[table]
            frames = [self._add_seen_days(empty, LOG_DAY).select(*columns)]
        return reduce(DataFrame.unionByName, frames)

    def _read(self, table: str, partitions: Iterable[Partition]) -> DataFrame:
        """Read partitions of a table, with the names of columns in computations."""
        rows = self.store.read(table).where(_make_condition(partitions))
        rows = rows.withColumnsRenamed({shown: name for name, shown in _NAMES.items() if shown in rows.columns})
        return self._add_seen_days(rows, "ds")

    def _add_seen_days(self, rows: DataFrame, day: str) -> DataFrame:
        """Add FIRST and LAST if keys expire. For rows of a single log day, both are this day."""
        if self.expire_days is None:
            return rows
        # Behaviours before the first day count as seen on the first day.
        first = min((count_days(day) for day in self.days if day != BEFORE_FIRST_DAY), default=0)
        seen = F.coalesce(F.unix_date(F.col(day).try_cast("date")), F.lit(first))
        columns = {}
        for name in (FIRST, LAST):
            is_stored = name in rows.columns and "span" in rows.columns
            columns[name] = F.when(F.col("span") > 1, F.col(name)).otherwise(seen) if is_stored else seen
        return rows.withColumns(columns)


def _make_condition(partitions: Iterable[Partition]) -> str:
    """Return the SQL condition that selects partitions."""
    by_span: dict[int, list[str]] = {}
    for partition in partitions:
        by_span.setdefault(partition.span, []).append(partition.ds)
    return " OR ".join(f"(span = {span} AND {make_in_condition('ds', days)})" for span, days in by_span.items())
