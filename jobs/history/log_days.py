"""The log days of a warehouse, and hashes of what determines their state."""

from __future__ import annotations

import bisect
from collections.abc import Collection, Mapping
from functools import cache, cached_property

from star_ctr.conf.contracts.catalog import LOG_TABLES
from star_ctr.conf.contracts.dates import BEFORE_FIRST_DAY, NO_DAY
from star_ctr.conf.contracts.fingerprint import hash_code, hash_json
from star_ctr.conf.contracts.run_id import hash_history_settings
from star_ctr.conf.settings.label import LabelFromClicks
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.history.inputs import (
    ATTRIBUTE_KEYS,
    collect_read_columns,
    find_undated_join_day,
    list_history_features,
)
from star_ctr.jobs.io.day_records import UNKNOWN, DayRecord, DayRecords
from star_ctr.jobs.io.table_hashes import HASH, hash_days, merge_hashes
from star_ctr.jobs.io.warehouse import WarehouseTables


class LogDays:
    """The log days up to a day.

    Args:
        settings: The data set.
        store: The tables.
        ds: The last log day.
    """

    def __init__(self, settings: Settings, store: WarehouseTables, ds: str) -> None:
        self.settings, self.store, self.ds = settings, store, ds
        self.records = DayRecords(settings)

    @cached_property
    def hashes(self) -> dict[str, str]:
        """The log days, with the hash of what determines their state."""
        return {day: hash_json(list(parts.values()), 16) for day, parts in self.parts.items()}

    @cached_property
    def parts(self) -> dict[str, dict[str, str]]:
        """The log days, with the hashes of the parts of what determines their state; see `day_records.PARTS`."""
        found = self.contents
        read = collect_read_columns(list_history_features(self.settings))
        attributes = [name for name in ATTRIBUTE_KEYS if any(c.table == name for c in read)]
        basis = {"settings": hash_history_settings(self.settings), "code": _hash_code()}
        days, until = {}, {name: _Prefixes(rows) for name, rows in found.items()}
        behaviours = self.settings.logs.behaviours
        is_untimed = behaviours is not None and behaviours.order is not None
        has_clicks = isinstance(self.settings.label, LabelFromClicks)
        for day in sorted({*found["impressions"], *found["clicks"], *found["behaviours"]} - {NO_DAY}):
            rows = [found[name].get(day) for name in ("impressions", "clicks", "behaviours")]
            # Attributes are those of the newest snapshot up to the day.
            join_day = find_undated_join_day(self.settings, self.store) if day == BEFORE_FIRST_DAY else day
            earlier = [until[name].hash_until(join_day) for name in attributes]
            if is_untimed and day in found["behaviours"] and day != BEFORE_FIRST_DAY:
                # Their weights may depend on behaviours that earlier nights saw.
                first = found["behaviours"].get(BEFORE_FIRST_DAY, "")
                earlier += (first, until["behaviours"].hash_until(day))
            if has_clicks and day != BEFORE_FIRST_DAY:
                # A click that is late may belong to any earlier impression.
                earlier += (until[name].hash_until(day) for name in ("impressions", "clicks"))
            days[day] = basis | {"rows": hash_json(rows, 16), "earlier": hash_json(earlier, 16)}
        return days

    @cached_property
    def contents(self) -> dict[str, dict[str, str]]:
        """The hashes of the rows of the ingested tables by day, up to the last log day."""
        return {name: self._read_contents(name) for name in LOG_TABLES}

    def _read_contents(self, name: str) -> dict[str, str]:
        days = self._list_ingested_days(name)
        recorded = self._read_recorded(name)
        # Days without a record were written by an earlier version, or by a killed step.
        missing = [day for day in days if day not in recorded]
        found = recorded | (self._hash_days(name, missing) if missing else {})
        return {day: found[day] for day in days if day in found}

    def _hash_days(self, name: str, days: Collection[str]) -> dict[str, str]:
        return hash_days(self.store, name, days)

    def _list_ingested_days(self, name: str) -> list[str]:
        if self.settings.logs.get_declared().get(name) is None or not self.store.exists(name):
            return []
        return [d for d in self.store.list_days(name) if d in (NO_DAY, BEFORE_FIRST_DAY) or d <= self.ds]

    def _read_recorded(self, name: str) -> dict[str, str]:
        return merge_hashes(self.records.read(f"ingest.{name}").values())

    def record(self) -> None:
        """Record the hashes of ingested days without a record, so that they are computed only once."""
        for name, days in self.contents.items():
            recorded = self._read_recorded(name) if days else {}
            new = {day: DayRecord(UNKNOWN, {HASH: {day: found}}) for day, found in days.items() if day not in recorded}
            self.records.write(f"ingest.{name}", new)


class RecordedLogDays(LogDays):
    """The log days with only the hashes that are recorded, which needs no Spark session."""

    def _hash_days(self, name: str, days: Collection[str]) -> dict[str, str]:
        return dict.fromkeys(days, "not recorded")


class _Prefixes:
    """Hashes of the rows of a log up to a day.

    Args:
        rows: The hashes of the rows by day.
    """

    def __init__(self, rows: Mapping[str, str]) -> None:
        self._undated, self._hashes = rows.get(NO_DAY), [""]
        self._days = sorted(day for day in rows if day not in (NO_DAY, BEFORE_FIRST_DAY))
        for day in self._days:
            self._hashes.append(hash_json([self._hashes[-1], day, rows[day]], 16))

    def hash_until(self, day: str) -> str:
        """Hash the rows of all days up to `day`, and those without a day."""
        return hash_json([self._undated, self._hashes[bisect.bisect_right(self._days, day)]], 16)


@cache
def _hash_code() -> str:
    return hash_code(["star_ctr.jobs.history.state"])
