"""How the nights stand, without Spark."""

from __future__ import annotations

from typing import Any

from star_ctr.conf.contracts.dates import check_day, list_days
from star_ctr.conf.contracts.pipeline import list_steps
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io import log_files
from star_ctr.jobs.registry.decisions import Decisions
from star_ctr.workflows.journal import Journal
from star_ctr.workflows.lease import is_held
from star_ctr.workflows.staleness import Staleness


def read_staleness(settings: Settings, busy: bool) -> Staleness:
    """How the nights of some settings stand now."""
    return Staleness(settings, Journal(settings).entries(), busy, Decisions(settings).all())


def run(settings: Settings, first: str | None, last: str | None, most: int) -> list[dict[str, Any]]:
    """What `list_steps_status` tells of how the nights stand now."""
    return list_steps_status(read_staleness(settings, is_held(settings)), first, last, most)


def list_steps_status(standing: Staleness, first: str | None, last: str | None, most: int) -> list[dict[str, Any]]:
    """Each step of each night: its state, why it is that one, when it ended or began, and how many seconds it took.

    The nights from `first` to `last`, or those from the oldest one that was ever run to the newest one of the logs; of
    these the `most` newest.
    """
    settings, known = standing.settings, standing.nights()
    dated = log_files.has_day_in_path(settings.logs.impressions)
    newest = log_files.list_days(settings, "impressions")[-1:] if dated else []
    given = [check_day(ds) for ds in (first, last) if ds]
    if not (seen := [*known[:1], *given, *newest, *known[-1:]]):
        raise DataError(f"{settings.paths.warehouse}: no night was run yet; run `star-ctr nightly` or `backfill`")
    start, end = check_day(first) if first else min(seen), check_day(last) if last else max(seen)
    rows = []
    for ds in list_days(start, end)[-most:]:
        for step in list_steps(settings):
            state, why = standing.state(ds, step)
            entry = standing.entry(ds, step)
            at = entry and entry.at.isoformat(timespec="seconds")
            rows.append(
                {"ds": ds, "step": step, "state": str(state), "why": why, "at": at, "seconds": entry and entry.seconds}
            )
    return rows
