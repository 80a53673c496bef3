"""Plan which days of a night's window need new features, and which only new labels."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from star_ctr.conf.contracts.dates import NO_DAY
from star_ctr.conf.contracts.fingerprint import hash_code, hash_json
from star_ctr.conf.contracts.run_id import hash_features_settings
from star_ctr.conf.settings.label import LabelFromClicks
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.history.inputs import ATTRIBUTE_KEYS
from star_ctr.jobs.history.state import HistoryState
from star_ctr.jobs.io.day_records import DayRecord, DayRecords
from star_ctr.jobs.io.log_writer import TIMES
from star_ctr.jobs.io.table_hashes import HASH
from star_ctr.jobs.io.warehouse import WarehouseTables

PART = "features"
"""The part of the records of days of features."""
_LABELS = "labels"


class DayPlan(NamedTuple):
    """What `features` does with the days of a night's window.

    Attributes:
        computed: The days whose features are computed.
        relabeled: The days that only get new labels.
        removed: The days that have no impressions any more.
        records: The records of the computed and relabeled days.
    """

    computed: list[str]
    relabeled: list[str]
    removed: list[str]
    records: dict[str, DayRecord]

    @property
    def changed(self) -> list[str]:
        """All days whose rows are replaced."""
        return sorted([*self.computed, *self.relabeled, *self.removed])


def plan_days(
    settings: Settings, store: WarehouseTables, state: HistoryState, window: Sequence[str], days: Collection[str]
) -> DayPlan:
    """Plan the days of a night's window.

    Args:
        settings: The data set.
        store: The tables.
        state: The state of the history, up to date.
        window: The days of the window.
        days: The days of the window that have impressions.

    Returns:
        The plan.
    """
    records = DayRecords(settings)
    stored_days = store.list_days("features") if store.exists("features") else []
    stored = {day: found for day, found in records.read(PART).items() if day in stored_days}
    ingested = {name: records.read(f"ingest.{name}") for name in ("impressions", "clicks", *ATTRIBUTE_KEYS)}
    basis = [hash_features_settings(settings), _hash_code()]
    computed, relabeled, new = [], [], dict[str, DayRecord]()
    for day in days:
        parts: list[Any] = [*basis, state.hash_before(day), _find_rows(ingested["impressions"]).get(day)]
        for name in ATTRIBUTE_KEYS:
            rows = _find_rows(ingested[name])
            parts.append(sorted(item for item in rows.items() if item[0] == NO_DAY or item[0] <= day))
        inputs, labels = hash_json(parts, 16), _hash_clicks(settings, ingested, day, state.ds)
        known = stored.get(day)
        if known is None or known.inputs != inputs:
            computed.append(day)
        elif known.outputs[_LABELS] != labels:
            relabeled.append(day)
        else:
            continue
        new[day] = DayRecord(inputs, {_LABELS: labels})
    return DayPlan(computed, relabeled, [d for d in window if d in stored_days and d not in days], new)


def _find_rows(records: Mapping[str, DayRecord]) -> dict[str, str]:
    """Return the hashes of ingested rows by day."""
    return {day: rows for record in records.values() for day, rows in record.outputs[HASH].items()}


def _find_times(records: Mapping[str, DayRecord]) -> dict[str, tuple[dt.date, dt.date]]:
    """Return the calendar days of the first and the last time of each log day."""
    found = {day: times for record in records.values() for day, times in record.outputs.get(TIMES, {}).items()}
    return {day: (dt.date.fromisoformat(first), dt.date.fromisoformat(last)) for day, (first, last) in found.items()}


def _hash_clicks(settings: Settings, ingested: Mapping[str, Mapping[str, DayRecord]], day: str, until: str) -> str:
    """Hash the clicks that the labels of a day may depend on; empty if the label is a column."""
    label = settings.label
    shown = _find_times(ingested["impressions"]).get(day)
    if not isinstance(label, LabelFromClicks) or shown is None:
        return ""
    window = dt.timedelta(days=int(label.window_hours // 24) + 1)
    # Impressions that share an id with one of the day, up to two windows before a click, can take its clicks.
    near = [
        (clicks, rows)
        for clicks, rows in _find_rows(ingested["clicks"]).items()
        if clicks <= until and _overlap(_find_times(ingested["clicks"]).get(clicks), shown[0], shown[1] + window)
    ]
    return hash_json(sorted(near), 16)


def _overlap(times: tuple[dt.date, dt.date] | None, first: dt.date, last: dt.date) -> bool:
    return times is not None and times[0] <= last and times[1] >= first


@cache
def _hash_code() -> str:
    return hash_code(["star_ctr.jobs.features"])
