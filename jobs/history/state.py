"""The state of the history: sums and last events by log day, and their roll-ups.

The state of a log day depends only on log days up to this day and does not change when later days arrive. It is two
tables, `history_counts` and `history_events`. When 8 days, or 64, are complete, they are merged into a roll-up, so that
all earlier events can be read from a few partitions. A log day that is restated rewrites its own state and the roll-ups
that contain it.

All features are computed from this state, whether one day is new or all are. So the result does not depend on which
days were computed before.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import reduce
from typing import NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.contracts.dates import BEFORE_FIRST_DAY
from star_ctr.conf.contracts.fingerprint import hash_json
from star_ctr.conf.settings.root import Settings
from star_ctr.features.point_in_time.daily_counts import GROUP, Group, compute_known_day
from star_ctr.features.point_in_time.events import LOG_DAY
from star_ctr.features.point_in_time.scan_planner import History
from star_ctr.jobs.history.events import read_events
from star_ctr.jobs.history.inputs import list_history_features
from star_ctr.jobs.history.log_days import LogDays
from star_ctr.jobs.history.merged_state import HISTORY_PART, MergedState
from star_ctr.jobs.history.roll_ups import Partition, count_days, format_day, is_before
from star_ctr.jobs.history.state_tables import StateTables
from star_ctr.jobs.io.day_records import PARTS, DayRecord, DayRecords, forget_days
from star_ctr.jobs.io.warehouse import WarehouseTables

_logger = logging.getLogger(__name__)


class _Parts(NamedTuple):
    """Parts of the state: the stored partitions to read, and the log days to compute."""

    stored: list[Partition]
    missing: list[str]


class _Events(NamedTuple):
    """Persisted events of some log days, and earlier ones that became known later; see `read_events`."""

    days: list[str]
    rows: DataFrame


class HistoryState:
    """The state of the log days up to a day.

    Args:
        settings: The data set.
        store: The tables.
        ds: The last log day.
        log_days: The log days up to `ds`; by default those of the ingested tables.
    """

    def __init__(self, settings: Settings, store: WarehouseTables, ds: str, log_days: LogDays | None = None) -> None:
        self.settings, self.store, self.ds = settings, store, ds
        self.records, self.log_days = DayRecords(settings), log_days or LogDays(settings, store, ds)
        self.tables = StateTables(settings, store, self.log_days)
        self.merged = MergedState(self.tables, self.log_days)
        self._stored: dict[str, DayRecord] | None = None
        self._events: _Events | None = None

    @property
    def days(self) -> dict[str, str]:
        """The log days, with the hash of what determines their state."""
        return self.log_days.hashes

    @property
    def contents(self) -> dict[str, dict[str, str]]:
        """The hashes of the rows of the ingested tables by day, up to the last log day."""
        return self.log_days.contents

    def list_days_to_compute(self) -> list[str]:
        """Return the log days whose state must be computed: it is missing or has changed, and no base replaces it."""
        stored, base_end = self._read_stored_days(), self.merged.find_oldest_base_end()
        return [day for day in self._list_stale_days() if day in stored or not (base_end and is_before(day, base_end))]

    def hash_until(self, day: str) -> str:
        """Hash the state of all log days up to a day: the history that features of this day depend on."""
        return hash_json([found for other, found in self.days.items() if other == BEFORE_FIRST_DAY or other <= day], 16)

    def update(self, stack: ExitStack) -> None:
        """Compute the state of stale log days, and the roll-ups and bases that contain them.

        Args:
            stack: Unpersists the events of these days on exit. Until then, `open` reuses them.
        """
        if not self.tables.names:
            return
        self.tables.versions = {}
        self.log_days.record()
        if not self.tables.all_exist():
            forget_days(self.settings, "features")  # the roll-ups are lost, too
        if stale := self.list_days_to_compute():
            _logger.info("history: computing the state of %s", ", ".join(stale))
            self.records.remove(HISTORY_PART, stale)
            # `open` needs the events of the window again. Those of many more days are not worth keeping.
            is_reused = self._has_time_cut() and len(stale) <= self.settings.window.days + 2
            events = read_events(self.settings, self.store, stale, with_earlier=is_reused).persist()
            stack.callback(events.unpersist)
            partitions = [Partition(1, day) for day in stale]
            for table, rows in self.tables.compute(events.where(F.col(LOG_DAY).isin(stale))).items():
                rows = rows.withColumn("span", F.lit(1)).withColumnRenamed(LOG_DAY, "ds")
                self.tables.write(table, rows, partitions)
            if is_reused:
                self._events = _Events([day for day in stale if day != BEFORE_FIRST_DAY], events)
            else:
                events.unpersist()
            parts = self.log_days.parts
            self.records.write(HISTORY_PART, {day: DayRecord(self.days[day], {PARTS: parts[day]}) for day in stale})
        gone = [day for day in self._read_stored_days() if day not in self.days and day <= self.ds]
        self.records.remove(HISTORY_PART, gone)
        self._stored = None
        self.merged.update()

    def _read_stored_days(self) -> dict[str, DayRecord]:
        """Return the records of the log days whose state is stored."""
        if self._stored is None:
            self._stored = self.records.read(HISTORY_PART) if self.tables.all_exist() else {}
        return self._stored

    def _list_stale_days(self) -> list[str]:
        """Return the log days whose own state is missing or has changed, even if a base contains them."""
        stored = self._read_stored_days()
        return [day for day, found in self.days.items() if day not in stored or stored[day].inputs != found]

    def open(self, cut_days: Iterable[int]) -> History:
        """Open the history for rows with given days of their cuts.

        State that is missing is computed, but not written.

        Args:
            cut_days: The days of the cuts, as days since 1970.

        Returns:
            The history.
        """
        self._pin_versions()
        wanted = sorted(cut_days)
        first, last = (wanted[0], wanted[-1]) if wanted else (0, 0)
        by_horizon: dict[int, list[Group]] = {}
        for group in self.tables.groups:
            by_horizon.setdefault(group.horizon, []).append(group)
        parts = {n: self._choose_parts(first, last, n) for n in (0, *by_horizon)}
        missing = sorted({day for found in parts.values() for day in found.missing})
        computed = self.tables.compute(read_events(self.settings, self.store, missing)) if missing else {}
        counts = lists = None
        if by_horizon:
            frames = []
            for n, groups in by_horizon.items():
                is_wanted = F.col(GROUP).isin([group.name for group in groups])
                frames += [rows.where(is_wanted) for rows in self._read_parts("history_counts", parts[n], computed)]
            counts = self._union("history_counts", frames)
        if "history_events" in self.tables.names:
            lists = self._union("history_events", self._read_parts("history_events", parts[0], computed))
        days = [format_day(day) for day in wanted] or [self.ds]
        events = self._read_known_events(days) if self._has_time_cut() else None
        return History(counts, lists, events, self._count_rows(days))

    def _has_time_cut(self) -> bool:
        """Return whether a feature has `cut: time`, so that it counts events of the row's own day."""
        return any(f.cut == "time" for f in list_history_features(self.settings))

    def _read_known_events(self, days: list[str]) -> DataFrame:
        """Read the events that became known on some days. Reuse those of `update` if they cover all of these days."""
        cached = self._events
        # Clicks and impressions are read up to the last day, so the last days must be equal.
        if cached is None or days[-1:] != cached.days[-1:] or not set(days) <= set(cached.days):
            return read_events(self.settings, self.store, days, with_earlier=True)
        if days == cached.days:
            return cached.rows
        return cached.rows.where(compute_known_day(self.settings.zone).isin([count_days(day) for day in days]))

    def _pin_versions(self) -> None:
        """Read the records, and pin the table versions that they describe, because another process may be writing."""
        pinned = None
        while pinned != (newest := self.tables.get_newest_versions()):
            pinned, self._stored = newest, None
            self.merged.read_records()
            self._read_stored_days()
        self.tables.versions = pinned

    def _choose_parts(self, first: int, last: int, horizon: int) -> _Parts:
        """Choose the parts whose union is the state of all log days before the last cut.

        Args:
            first: The day of the first cut, as days since 1970.
            last: The day of the last cut.
            horizon: Number of days before a cut that must be read as single days.

        Returns:
            The parts.
        """
        stored, missing, stale = list[Partition](), list[str](), set(self._list_stale_days())
        for partition in self.merged.choose_partitions(first, horizon):
            if partition.span > 1 or partition.ds not in stale:
                stored.append(partition)
            elif is_before(partition.ds, last):
                missing.append(partition.ds)
        return _Parts(stored, missing)

    def _read_parts(self, table: str, parts: _Parts, computed: Mapping[str, DataFrame]) -> list[DataFrame]:
        """Return the stored rows of some parts, and those of `computed` that belong to them."""
        frames = [self.tables.read(table, parts.stored)] if parts.stored else []
        # Another horizon may need a day that a roll-up or a base of this one contains.
        frames += [computed[table].where(F.col(LOG_DAY).isin(parts.missing))] if parts.missing else []
        return frames

    def _union(self, table: str, frames: list[DataFrame]) -> DataFrame:
        """Return rows with the columns that features are computed from."""
        frames = frames or [self.tables.compute(read_events(self.settings, self.store, []))[table]]
        return reduce(DataFrame.unionByName, [self.tables.select(table, rows) for rows in frames])

    def _count_rows(self, days: Iterable[str]) -> int:
        """Return the approximate number of impressions of some days and of the events that became known on them."""
        wanted, logs = set(days), ("impressions", "impressions", "clicks", "behaviours")
        found = (rows for name in logs for day, rows in self.contents[name].items() if day in wanted)
        return sum(int(rows.partition(":")[0]) for rows in found)
