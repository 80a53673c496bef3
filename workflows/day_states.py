"""The days that the steps of a night would compute if they ran now, and why. Needs no Spark session."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

from star_ctr.conf.contracts.dates import UNDATED, list_window_days
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.day_records import UNKNOWN, DayRecord, DayRecords, explain_change
from star_ctr.jobs.io.ingest_plan import plan_log
from star_ctr.jobs.io.log_files import LogFile


class DayState(NamedTuple):
    """A day that a step would compute.

    Attributes:
        part: The part of the step: `ingest.LOG`, `history`, `features` or `labels`.
        day: The log day; `all` or `before` for the rows of a log without days.
        reason: Why it would be computed.
    """

    part: str
    day: str
    reason: str


def list_ingest_days(settings: Settings, ds: str, files: Mapping[str, list[LogFile]]) -> list[DayState]:
    """List the days that `ingest` would write.

    Args:
        settings: The settings.
        ds: The night.
        files: The files of each log.

    Returns:
        The days by log. Days of logs without files are left out.
    """
    found = []
    for name in settings.logs.get_declared():
        part = f"ingest.{name}"
        records = DayRecords(settings).read(part)
        plan = plan_log(settings, name, ds, files[name], records)
        if plan.read == []:
            continue
        has_table = any(source.table for source in settings.logs.get_declared()[name].list_sources().values())
        days = {f.day for f in files[name]}
        for day in sorted(plan.inputs):
            known = records.get(day)
            if known is None and None not in days and day not in days and not has_table:
                continue  # no file and no rows
            reason = _explain_new_rows(known, plan.parts[day], plan.adds_rows)
            found.append(DayState(part, day, "its catalog table may have changed" if has_table else reason))
    return found


def _explain_new_rows(known: DayRecord | None, parts: Mapping[str, str], adds_rows: bool) -> str:
    if known is None or known.inputs == UNKNOWN:
        return "log files changed" if adds_rows else "not ingested yet"
    return explain_change(known, parts)


def list_features_days(settings: Settings, ds: str, ingested: Iterable[DayState]) -> list[DayState]:
    """List the days whose history, features or labels the step `features` would compute.

    Args:
        settings: The settings.
        ds: The night.
        ingested: The days that `ingest` would write first. Days that depend on them are listed, too.

    Returns:
        The days by part.
    """
    # These modules import Spark, which takes a second: finished nights do not need them.
    from star_ctr.jobs.history import day_plan, state
    from star_ctr.jobs.history.log_days import RecordedLogDays
    from star_ctr.jobs.history.merged_state import HISTORY_PART
    from star_ctr.jobs.io import label_records
    from star_ctr.jobs.io.warehouse import WarehouseTables

    waiting = {found.day for found in ingested}
    window, changed = list_window_days(settings, ds), sorted(day for day in waiting if day not in UNDATED)
    store = WarehouseTables(settings, cast(Any, None))  # only the Delta logs of the tables are read
    found: dict[tuple[str, str], str] = {}
    if store.exists("impressions"):
        history = state.HistoryState(settings, store, ds, RecordedLogDays(settings, store, ds))
        records = DayRecords(settings)
        if history.tables.names:
            known = records.read(HISTORY_PART)
            for day in history.list_days_to_compute():
                found[HISTORY_PART, day] = explain_change(known.get(day), history.log_days.parts[day])
        plan = day_plan.plan_days(settings, store, history, window, store.list_days("impressions"))
        known, labeled = records.read(day_plan.PART), records.read(label_records.PART)
        for day, record in plan.computed.items():
            found[day_plan.PART, day] = explain_change(known.get(day), record.outputs["parts"])
        for day, inputs in plan.labeled.items():
            if day not in labeled:
                reason = "not computed yet"
            else:
                is_same = labeled[day].inputs == inputs
                reason = "labels are still open" if is_same else "its impressions or clicks changed"
            found[label_records.PART, day] = reason
    for day in [*window, *(day for day in changed if day not in window)]:
        parts = [day_plan.PART, label_records.PART] if day in window else []
        for part in [HISTORY_PART, *parts] if settings.history else parts:
            if day in waiting:
                found.setdefault((part, day), "waits for ingest of this day")
            elif part == day_plan.PART and not waiting.isdisjoint(UNDATED):
                found.setdefault((part, day), "waits for ingest of a log without days")
            elif part == day_plan.PART and changed and changed[0] < day:
                found.setdefault((part, day), f"waits for ingest of {changed[0]}")
    return [DayState(part, day, reason) for (part, day), reason in sorted(found.items())]
