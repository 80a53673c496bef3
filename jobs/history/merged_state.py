"""The merged partitions of the state of the history: roll-ups of several log days, and bases."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pyspark.sql import functions as F

from star_ctr.jobs.history import roll_ups
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
from star_ctr.jobs.history.state_tables import StateTables
from star_ctr.jobs.io.day_records import DayRecord, DayRecords

HISTORY_PART = "history"
"""Value of `part` in the table `days` for log days. For roll-ups and bases, see `name_merged_part`."""


def name_merged_part(span: int | None) -> str:
    """Return the part of the records of roll-ups of `span` days, or of bases if `span` is None."""
    return f"{HISTORY_PART}.{'base' if span is None else span}"


class MergedState:
    """The roll-ups and bases of the log days up to a day.

    Args:
        tables: The tables.
        log_days: The log days.
    """

    def __init__(self, tables: StateTables, log_days: LogDays) -> None:
        self.tables, self.log_days = tables, log_days
        self.records = DayRecords(tables.settings)
        self._hashes: dict[int | None, dict[str, str]] = {}

    def find_oldest_base_end(self) -> int:
        """Return the exclusive end of the oldest base that is up to date, as days since 1970; 0 if there is none."""
        stored = self._read_hashes(None)
        return min(
            (count_days(end) for end, inputs in self._list_bases().items() if stored.get(end) == inputs), default=0
        )

    def choose_partitions(self, first_cut: int, horizon: int) -> list[Partition]:
        """Return the partitions whose union is the state of all log days; see `roll_ups.choose_partitions`."""
        stored = {span: self._read_hashes(span) for span in roll_ups.SPANS}
        bases = self._read_hashes(None)
        return choose_partitions(self.log_days.hashes, stored, self.log_days.ds, first_cut, horizon, bases)

    def read_records(self) -> None:
        """Read all records again."""
        self._hashes.clear()
        for span in (*roll_ups.SPANS, None):
            self._read_hashes(span)

    def update(self) -> None:
        """Merge log days whose state is up to date."""
        self.read_records()
        for span, smaller in zip(roll_ups.SPANS, (1, *roll_ups.SPANS), strict=False):
            self._update_roll_ups(span, smaller)
        self._update_bases()

    def _update_roll_ups(self, span: int, smaller: int) -> None:
        """Merge the partitions of `smaller` days of each complete block of `span` days."""
        days, ds, stored = self.log_days.hashes, self.log_days.ds, self._read_hashes(span)
        # `star-ctr clean` may have deleted the partitions before the end of a base.
        base_end = self.find_oldest_base_end()
        stale = {
            first: found
            for first, found in list_blocks(days, ds, span).items()
            if stored.get(first) != found and count_days(first) + span > base_end
        }
        if not stale:
            return
        self._remove_records(span, stale)
        wanted = [member for first in stale for member in list_members(days, ds, first, span, smaller)]
        first_day = F.date_from_unix_date(F.floor(F.unix_date(F.col("ds").cast("date")) / span).cast("int") * span)
        for table in self.tables.names:
            rows = self.tables.read(table, wanted).withColumn("ds", F.date_format(first_day, "yyyy-MM-dd"))
            end = F.unix_date(F.col("ds").cast("date")) + span
            self.tables.merge(table, rows, end, [Partition(span, first) for first in stale])
        self._write_records(span, stale)

    def _update_bases(self) -> None:
        """Write the two newest bases, each up to the end of a large roll-up, and remove older ones."""
        wanted, first_end = self._list_bases(), self.find_oldest_base_end()
        for day, inputs in wanted.items():
            # The days before a base may have been deleted, so no earlier base can be built.
            if self._read_hashes(None).get(day) == inputs or count_days(day) < first_end:
                continue
            self._remove_records(None, [day])
            end, bases = count_days(day), self._read_hashes(None)
            earlier = {other: found for other, found in self.log_days.hashes.items() if is_before(other, end)}
            stored = {span: self._read_hashes(span) for span in roll_ups.SPANS}
            members = choose_partitions(earlier, stored, format_day(end - 1), end, 0, bases)
            for table in self.tables.names:
                rows = self.tables.read(table, members).withColumn("ds", F.lit(EPOCH))
                self.tables.merge(table, rows, F.lit(end), [Partition(end, EPOCH)])
            self._write_records(None, {day: inputs})
        if gone := [day for day in self._read_hashes(None) if wanted and day < min(wanted)]:
            self._remove_records(None, gone)
            self.tables.remove(Partition(count_days(day), EPOCH) for day in gone)

    def _list_bases(self) -> dict[str, str]:
        if self.tables.expire_days is None:
            return {}
        return list_bases(self.log_days.hashes, self.log_days.ds, max(roll_ups.SPANS))

    def _read_hashes(self, span: int | None) -> dict[str, str]:
        if span not in self._hashes:
            found = self.records.read(name_merged_part(span)) if self.tables.all_exist() else {}
            self._hashes[span] = {day: record.inputs for day, record in found.items()}
        return self._hashes[span]

    def _write_records(self, span: int | None, hashes: Mapping[str, str]) -> None:
        self.records.write(name_merged_part(span), {day: DayRecord(found, {}) for day, found in hashes.items()})
        self._hashes[span] = {**self._read_hashes(span), **hashes}

    def _remove_records(self, span: int | None, days: Collection[str]) -> None:
        self.records.remove(name_merged_part(span), list(days))
        self._hashes[span] = {day: found for day, found in self._read_hashes(span).items() if day not in days}
