"""Plan which days of a night's window need new features, and which only new labels."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from star_ctr.conf.contracts.dates import NO_DAY
from star_ctr.conf.contracts.fingerprint import hash_code, hash_json
from star_ctr.conf.contracts.run_id import hash_features_settings
from star_ctr.conf.settings.label import LabelFromClicks
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.history.inputs import ATTRIBUTE_KEYS
from star_ctr.jobs.history.state import HistoryState
from star_ctr.jobs.io.day_records import DayRecord, DayRecords
from star_ctr.jobs.io.log_writer import TIMES
from star_ctr.jobs.io.warehouse import WarehouseTables

PART = "features"
"""The part of the records of days of features."""
_LABELS = "labels"


_Times = Mapping[str, tuple[dt.date, dt.date]]


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
    basis = [hash_features_settings(settings), _hash_code()]
    times = {name: _find_times(records.read(f"ingest.{name}")) for name in ("impressions", "clicks")}
    computed, relabeled, new = [], [], dict[str, DayRecord]()
    for day in days:
        attributes = [
            [item for item in state.contents[name].items() if item[0] == NO_DAY or item[0] <= day]
            for name in ATTRIBUTE_KEYS
        ]
        rows = state.contents["impressions"].get(day)
        inputs = hash_json([*basis, state.hash_before(day), rows, attributes], 16)
        labels = _hash_outcomes(settings, state.contents, times, day)
        known = stored.get(day)
        if known is None or known.inputs != inputs:
            computed.append(day)
        elif known.outputs[_LABELS] != labels:
            relabeled.append(day)
        else:
            continue
        new[day] = DayRecord(inputs, {_LABELS: labels})
    return DayPlan(computed, relabeled, [d for d in window if d in stored_days and d not in days], new)


def _find_times(records: Mapping[str, DayRecord]) -> dict[str, tuple[dt.date, dt.date]]:
    """Return the calendar days of the first and the last time of each log day."""
    found = {day: times for record in records.values() for day, times in record.outputs.get(TIMES, {}).items()}
    return {day: (dt.date.fromisoformat(first), dt.date.fromisoformat(last)) for day, (first, last) in found.items()}


def _hash_outcomes(
    settings: Settings, contents: Mapping[str, Mapping[str, str]], times: Mapping[str, _Times], day: str
) -> str:
    """Hash the rows that the labels of a day depend on, besides its own; empty if the label is a column.

    Args:
        settings: The data set.
        contents: The hashes of the rows of each log by log day.
        times: The first and the last day of the times of each log and log day.
        day: The day.

    Returns:
        The hash of the clicks that may belong to impressions of the day, and of later impressions with the same ids.
    """
    label, always = settings.label, (dt.date.min, dt.date.max)
    if not isinstance(label, LabelFromClicks):
        return ""
    window = dt.timedelta(days=int(label.window_hours // 24) + 1)
    first, last = times["impressions"].get(day, (dt.date.min, dt.date.max - window))

    def is_near(log: str, log_day: str) -> bool:
        start, end = times[log].get(log_day, always)
        return start <= last + window and end >= first

    near = [
        [(log_day, rows) for log_day, rows in contents[log].items() if is_near(log, log_day)]
        for log in ("impressions", "clicks")
    ]
    return hash_json(near, 16)


@cache
def _hash_code() -> str:
    return hash_code(["star_ctr.jobs.features"])
