"""States of the nights, computed without Spark."""

from __future__ import annotations

from typing import Any

from star_ctr.conf.contracts.dates import check_day, list_days
from star_ctr.conf.contracts.pipeline import list_steps
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io import log_files
from star_ctr.jobs.registry.decisions import Decisions
from star_ctr.workflows.day_states import DayState, list_features_days, list_ingest_days
from star_ctr.workflows.journal import Journal
from star_ctr.workflows.lease import is_held
from star_ctr.workflows.staleness import Staleness


def read_staleness(settings: Settings, busy: bool) -> Staleness:
    """Read the journal and the decisions of a warehouse, to compute the states of its steps.

    Args:
        settings: The settings.
        busy: Whether a process is writing to the warehouse; see `Staleness`.

    Returns:
        The states of all steps.
    """
    return Staleness(settings, Journal(settings).read_entries(), busy, Decisions(settings).read_all())


def run(settings: Settings, first: str | None, last: str | None, limit: int) -> list[dict[str, Any]]:
    """Return the current state of each step of each night; see `list_steps_status` for arguments and result.

    All rows also have `days`: the days that the step would compute if it ran now, each with its `part`, `day` and
    `reason`. Only unfinished `ingest` and `features` steps have any.
    """
    staleness = read_staleness(settings, is_held(settings))
    rows = list_steps_status(staleness, first, last, limit)
    ingested: dict[str, list[DayState]] = {}
    for row in rows:
        ds, step, days = row["ds"], row["step"], list[DayState]()
        if step == "ingest" and row["state"] not in ("done", "removed"):
            days = ingested[ds] = list_ingest_days(settings, ds, staleness.log_files)
        elif step == "features" and row["state"] not in ("done", "removed"):
            days = list_features_days(settings, ds, ingested.get(ds, []))
        row["days"] = [found._asdict() for found in days]
    return rows


def list_steps_status(staleness: Staleness, first: str | None, last: str | None, limit: int) -> list[dict[str, Any]]:
    """Return the state of each step of each night.

    Args:
        staleness: The states of all steps.
        first: The first night. By default, the oldest night that was ever run.
        last: The last night. By default, the newest day of the logs, or the newest night that was ever run if that is
            later.
        limit: Maximum number of nights; only the newest ones are returned.

    Returns:
        One row per night and step, oldest night first: `ds`, `step`, `state`, `reason` (the reason for the state; empty
        if done), `at` (time of the last entry in the journal; None if the step never ran), and `seconds` (the duration
        of the step; None if it has not ended).

    Raises:
        DataError: No night has run yet and there are no logs, or `first` or `last` is not a date.
    """
    settings, known = staleness.settings, staleness.list_nights()
    dated = settings.logs.impressions.has_day
    newest = log_files.list_log_days(settings, "impressions")[-1:] if dated else []
    given = [check_day(ds) for ds in (first, last) if ds]
    if not (days := [*known[:1], *given, *newest, *known[-1:]]):
        raise DataError(
            f"{settings.paths.warehouse}: no night has run yet; run `star-ctr nightly` or `star-ctr backfill`"
        )
    start, end = check_day(first) if first else min(days), check_day(last) if last else max(days)
    rows = []
    for ds in list_days(start, end)[-limit:]:
        for step in list_steps(settings):
            state, reason = staleness.get_state(ds, step)
            entry = staleness.get_entry(ds, step)
            at = entry and entry.at.isoformat(timespec="seconds")
            rows.append(
                {
                    "ds": ds,
                    "step": step,
                    "state": str(state),
                    "reason": reason,
                    "at": at,
                    "seconds": entry and entry.seconds,
                }
            )
    return rows
