"""Plan which days need new features, and which need new labels."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from star_ctr.conf.contracts.dates import NO_DAY
from star_ctr.conf.contracts.fingerprint import hash_code, hash_json
from star_ctr.conf.contracts.run_id import hash_features_settings, hash_label_settings, hash_outcome_settings
from star_ctr.conf.settings.label import LabelFromClicks
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.history.inputs import ATTRIBUTE_KEYS
from star_ctr.jobs.history.state import HistoryState
from star_ctr.jobs.io.day_records import PARTS, DayRecord, DayRecords
from star_ctr.jobs.io.label_records import AS_OF, has_open_labels
from star_ctr.jobs.io.label_records import PART as LABELS
from star_ctr.jobs.io.log_times import read_time_ranges
from star_ctr.jobs.io.warehouse import WarehouseTables

PART = "features"
"""The part of the records of days of features."""

_Times = Mapping[str, tuple[dt.date, dt.date]]


class DayPlan(NamedTuple):
    """What `features` does with the days of a night's window.

    Attributes:
        computed: The records of the days whose features are computed.
        labeled: The days whose labels are computed, with the hash of what determines them.
        removed: The days that no longer have impressions.
    """

    computed: dict[str, DayRecord]
    labeled: dict[str, str]
    removed: list[str]


def plan_days(
    settings: Settings, store: WarehouseTables, state: HistoryState, window: Sequence[str], days: Collection[str]
) -> DayPlan:
    """Plan the days of a night's window, and the earlier days whose labels are still open.

    Args:
        settings: The data set.
        store: The tables.
        state: The state of the history, up to date.
        window: The days of the window.
        days: The days that have impressions.

    Returns:
        The plan.
    """
    current = [day for day in window if day in days]
    with_features, with_labels = (_list_stored_days(store, table) for table in ("features", "labels"))
    return DayPlan(
        _plan_features(settings, state, current, with_features),
        _plan_labels(settings, state, current, [day for day in days if day <= state.ds], with_labels),
        [day for day in window if day not in days and day in {*with_features, *with_labels}],
    )


def _list_stored_days(store: WarehouseTables, table: str) -> list[str]:
    return store.list_days(table) if store.exists(table) else []


def _plan_features(
    settings: Settings, state: HistoryState, days: Sequence[str], stored_days: Collection[str]
) -> dict[str, DayRecord]:
    """Return the new records of the days whose features are missing or were computed from something else."""
    stored = {day: found for day, found in DayRecords(settings).read(PART).items() if day in stored_days}
    basis = {"settings": hash_features_settings(settings), "code": _hash_code("star_ctr.jobs.features")}
    new = {}
    for day in days:
        attributes = [
            [item for item in state.contents[name].items() if item[0] == NO_DAY or item[0] <= day]
            for name in ATTRIBUTE_KEYS
        ]
        rows = state.contents["impressions"].get(day, "")
        parts = {**basis, "rows": rows, "history": state.hash_until(day), "attributes": hash_json(attributes, 16)}
        inputs = hash_json(list(parts.values()), 16)
        if day not in stored or stored[day].inputs != inputs:
            new[day] = DayRecord(inputs, {PARTS: parts})
    return new


def _plan_labels(
    settings: Settings, state: HistoryState, window: Sequence[str], days: Sequence[str], stored_days: Collection[str]
) -> dict[str, str]:
    """Return the days whose labels are computed, with the hash of what determines them."""
    records = DayRecords(settings)
    stored = {day: found for day, found in records.read(LABELS).items() if day in stored_days}
    times = {name: read_time_ranges(settings, name) for name in ("impressions", "clicks", "events")}
    weight = settings.logs.impressions.weight
    basis = [hash_label_settings(settings), _hash_code("star_ctr.jobs.history.labels"), *([weight] if weight else [])]
    basis += [found] if (found := hash_outcome_settings(settings)) else []
    new = {}
    for day in days:
        known = stored.get(day)
        is_open = known is not None and has_open_labels(known, state.ds)
        was_killed = known is None and day in stored_days
        if day not in window and not is_open and not was_killed:
            continue
        outcomes = _hash_outcomes(settings, state.contents, times, day)
        inputs = hash_json([*basis, state.contents["impressions"].get(day), outcomes], 16)
        if known is None or known.inputs != inputs or (is_open and known.outputs[AS_OF] != state.ds):
            new[day] = inputs
    return new


def _hash_outcomes(
    settings: Settings, contents: Mapping[str, Mapping[str, str]], times: Mapping[str, _Times], day: str
) -> str:
    """Hash the rows that the labels of a day depend on, besides its own; empty if all labels are columns.

    Args:
        settings: The data set.
        contents: The hashes of the rows of each log by log day.
        times: The first and the last day of the times of each log and log day.
        day: The day.

    Returns:
        The hash of the clicks and events that may belong to impressions of the day, and of later impressions with the
        same ids.
    """
    label, always = settings.label, (dt.date.min, dt.date.max)
    windows = [outcome.window_hours for outcome in label.outcome_events.values()]
    logs = ["events"] if windows else []
    if isinstance(label, LabelFromClicks):
        windows, logs = [*windows, label.window_hours], ["clicks", *logs]
    if not logs:
        return ""
    window = dt.timedelta(days=int(max(windows) // 24) + 1)
    first, last = times["impressions"].get(day, (dt.date.min, dt.date.max - window))

    def is_near(log: str, log_day: str) -> bool:
        start, end = times[log].get(log_day, always)
        return start <= last + window and end >= first

    near = [
        [(log_day, rows) for log_day, rows in contents[log].items() if is_near(log, log_day)]
        for log in ("impressions", *logs)
    ]
    return hash_json(near, 16)


@cache
def _hash_code(module: str) -> str:
    return hash_code([module])
