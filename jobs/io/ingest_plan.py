"""Plan which days of a log `ingest` reads and writes: those whose files have changed since they were written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

from star_ctr.conf.contracts.dates import (
    BEFORE_FIRST_DAY,
    NO_DAY,
    UNDATED,
    list_days,
    list_days_before,
    list_window_days,
)
from star_ctr.conf.contracts.fingerprint import hash_code, hash_json
from star_ctr.conf.contracts.run_id import hash_log_settings
from star_ctr.conf.settings.logs import AttributeLog, BehaviourLog
from star_ctr.conf.settings.root import Settings
from star_ctr.conf.settings.sources import Log
from star_ctr.jobs.io.day_records import DayRecord
from star_ctr.jobs.io.label_records import find_open_days
from star_ctr.jobs.io.log_files import UNWINDOWED_LOGS, LogFile, hash_files

_END = "9999-12-31"
_BASIS, _FIRST_NIGHT = "basis", "night"
"""Keys of the record of a log without days: the hash of its settings, and the night that read it first."""


class LogPlan(NamedTuple):
    """What `ingest` does with a log.

    Attributes:
        inputs: The days to write, with the hash of what determines their rows. One of UNDATED for a log without days.
        kept: The records of the days that are up to date.
        read: The days of the files to read; None for all files. Empty for a log without days whose files an earlier
            night has read.
        is_whole: Whether rows without a day, and for a log that reaches back all days before the night, are written
            too.
        first_seen: For a log without days, the day that the written rows get: one of UNDATED for all rows, or the night
            for rows that are new since earlier nights; None for other logs.
        parts: The parts of the inputs of each day to write; see `day_records.PARTS`.
        outputs: Further entries for the outputs of the records of the days to write.
    """

    inputs: dict[str, str]
    kept: dict[str, DayRecord]
    read: list[str] | None
    is_whole: bool
    parts: Mapping[str, Mapping[str, str]]
    first_seen: str | None = None
    outputs: Mapping[str, str] = MappingProxyType({})

    @property
    def starts_over(self) -> bool:
        """Whether all rows of a log without days are replaced."""
        return self.first_seen in UNDATED

    @property
    def adds_rows(self) -> bool:
        """Whether only the new rows of a log without days are written."""
        return self.first_seen is not None and not self.starts_over


def has_log_days(log: Log) -> bool:
    """Return whether the rows of a log belong to days."""
    if isinstance(log, AttributeLog):
        return log.has_day or log.day is not None
    return not (isinstance(log, BehaviourLog) and log.order is not None)


def is_read_by_day(log: Log) -> bool:
    """Return whether the rows of a day are in files whose path contains this day."""
    return has_log_days(log) and all(source.has_day for source in log.list_sources().values())


def plan_log(
    settings: Settings, name: str, ds: str, files: Sequence[LogFile], records: Mapping[str, DayRecord]
) -> LogPlan:
    """Plan the days of a log for a night.

    These are the days of the window and, for clicks and events, all days since the first one with open labels: a label
    must not become final without the clicks or events of a day that no night has read.

    Args:
        settings: The settings of the data set.
        name: The log.
        ds: The night.
        files: All files of the log.
        records: The records of the days that were written before; empty if the table does not exist.

    Returns:
        The plan. If no day has to be written, its `inputs` are empty.
    """
    log = settings.logs.get_declared()[name]
    if not has_log_days(log):
        return _plan_undated_log(settings, name, ds, files, records)
    by_day, window = is_read_by_day(log), list_window_days(settings, ds)
    lookback = getattr(log, "duplicate_days", 0)
    if name in ("clicks", "events"):
        first = min([window[0], *find_open_days(settings, ds)])
        wanted = list_days(first, ds)
    elif name not in UNWINDOWED_LOGS:
        wanted = window
    elif by_day:
        wanted = sorted({day for day in (*records, *(f.day for f in files)) if day and day <= ds})
    else:
        wanted = [ds]
    basis = {"settings": hash_log_settings(settings, name), "code": _hash_code()}

    files_by_day: dict[str | None, list[LogFile]] = {}
    for file in files:
        files_by_day.setdefault(file.day, []).append(file)

    def hash_files_of_day(day: str) -> str:
        if not by_day and name in UNWINDOWED_LOGS:
            return hash_files(files, None, day)
        return hash_files(
            [f for d in (None, *list_days_before(day, lookback), day) for f in files_by_day.get(d, [])], None, day
        )

    can_change = _can_change_silently(log)
    parts = {day: basis | {"files": hash_files_of_day(day)} for day in wanted}
    hashes = {day: hash_json(list(found.values()), 16) for day, found in parts.items()}
    kept = {
        day: records[day]
        for day, found in hashes.items()
        if not can_change and day in records and records[day].inputs == found
    }
    inputs = {day: found for day, found in hashes.items() if day not in kept}
    read = sorted({x for day in inputs for x in (*list_days_before(day, lookback), day)}) if by_day else None
    return LogPlan(inputs, kept, read, is_whole=not by_day, parts={day: parts[day] for day in inputs})


def _plan_undated_log(
    settings: Settings, name: str, ds: str, files: Sequence[LogFile], records: Mapping[str, DayRecord]
) -> LogPlan:
    """Plan a log without days: each row belongs to the night that saw it first, and never to an earlier one."""
    log = settings.logs.get_declared()[name]
    undated = BEFORE_FIRST_DAY if isinstance(log, BehaviourLog) else NO_DAY
    basis = {"settings": hash_log_settings(settings, name), "code": _hash_code()}
    parts = basis | {"files": hash_files(files, None, _END)}
    inputs = hash_json(list(parts.values()), 16)
    # If only the code has changed, the rows keep the days from which they are known.
    outputs = {_BASIS: hash_json(basis["settings"], 16), _FIRST_NIGHT: ds}
    all_rows = LogPlan({undated: inputs}, {}, None, True, {undated: parts}, first_seen=undated, outputs=outputs)
    first = records.get(undated)
    if first is None or first.outputs.get(_BASIS) != outputs[_BASIS]:
        return all_rows
    newest = max([first.outputs[_FIRST_NIGHT], *(day for day in records if day not in UNDATED)])
    known = records[undated if newest == first.outputs[_FIRST_NIGHT] else newest]
    is_current = known.inputs == inputs and not _can_change_silently(log)
    # An older night uses the rows that are known as of its day.
    if ds < newest or (ds == newest and is_current):
        return LogPlan({}, dict(records), None, is_whole=True, parts={})
    if ds == first.outputs[_FIRST_NIGHT]:
        return all_rows
    return LogPlan({ds: inputs}, dict(records), [] if is_current else None, True, {ds: parts}, first_seen=ds)


def _can_change_silently(log: Log) -> bool:
    """Return whether rows of a log can change without a change of its files: it reads a table of a catalog."""
    return any(source.table for source in log.list_sources().values())


def list_records_of_night(
    settings: Settings, name: str, ds: str, records: Mapping[str, DayRecord]
) -> dict[str, DayRecord]:
    """Return the records of the days of a log that a night reads."""
    window, reaches_back = list_window_days(settings, ds), name in UNWINDOWED_LOGS
    read = [day for day in records if day in UNDATED or (day <= ds if reaches_back else day in window)]
    return {day: records[day] for day in read}


@cache
def _hash_code() -> str:
    return hash_code(["star_ctr.jobs.ingest"])
