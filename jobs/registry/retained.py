"""Selection of the attempts that `star-ctr clean` must keep, with the reason for each."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from enum import StrEnum

from star_ctr.conf.contracts.catalog import RECORD_FILE, Warehouse
from star_ctr.conf.contracts.dates import list_days_before
from star_ctr.conf.contracts.run_id import is_reference
from star_ctr.conf.errors import DataError, UserError, suggest_nearest
from star_ctr.conf.settings.root import Settings
from star_ctr.conf.settings.trainer import ACCEPTED, PREVIOUS
from star_ctr.jobs.registry.attempts import Attempt, find_attempt, list_attempts, read_job
from star_ctr.jobs.registry.decisions import Decision, Decisions, get_evaluated_attempt, list_accepted

SECONDS_PER_DAY = 24 * 3600.0
AttemptKey = tuple[str, int]
"""Run id and number of an attempt."""


class Reason(StrEnum):
    """Reason to keep an attempt."""

    DECISION = "serving, or needed for a rollback"
    PINNED = "pinned"
    START = "the start of a kept run"
    NEWEST = "the newest attempt of its run"
    RECENT = "superseded recently"
    UNFINISHED = "not finished yet"


KEEP_ROWS = (Reason.DECISION, Reason.PINNED, Reason.UNFINISHED)
"""Reasons for which the table rows of an attempt are also kept, regardless of age."""


def list_kept_attempts(
    settings: Settings, warehouse: Warehouse, attempts: Sequence[Attempt], newest: str
) -> dict[AttemptKey, Reason]:
    """Select the attempts to keep.

    Args:
        settings: The settings, with the ages in `retention`.
        warehouse: The warehouse.
        attempts: All attempts of all runs.
        newest: The newest night; empty if there is none.

    Returns:
        The reason to keep each attempt, by its key.

    Raises:
        UserError: `retention.pinned` names a run without a published attempt.
    """
    ages, kept = settings.retention, _list_named_attempts(settings, warehouse)
    first = compute_first_day(newest, ages.models) if ages.models is not None and newest else ""
    runs = {*_list_newest_before(attempts, first), *(run for run, _ in kept)}
    for run in dict.fromkeys(a.run_id for a in attempts):
        if not parse_night(run) or (parse_night(run) < first and run not in runs):
            continue
        run_attempts = list_attempts(warehouse, run)
        published = [a for a in run_attempts if a.is_published]
        for attempt in run_attempts:
            if not attempt.is_published and (not published or attempt.number > published[-1].number):
                kept.setdefault(attempt.key, Reason.UNFINISHED)
            elif published and attempt.number == published[-1].number:
                # Keep it even if another attempt of the run is kept: a run refers to its newest published attempt.
                kept.setdefault(attempt.key, Reason.NEWEST)
            elif published and (ages.attempts is None or _compute_age(published[-1]) < ages.attempts):
                kept.setdefault(attempt.key, Reason.RECENT)
    return kept


def list_pinned_attempts(settings: Settings, warehouse: Warehouse) -> list[Attempt]:
    """Return the newest published attempt of each run in `retention.pinned`; raises `UserError` if a run has none."""
    found = []
    for name in settings.retention.pinned:
        attempt = find_attempt(warehouse, name)
        if attempt is None:
            known = warehouse.list_finished_runs()
            raise UserError(f"retention.pinned: {name} has no published attempt{suggest_nearest(name, known)}")
        found.append(attempt)
    return found


def list_decisions_in_force(settings: Settings, decisions: Sequence[Decision]) -> list[Decision]:
    """Return the accepted decisions whose models must be kept, oldest first.

    The last one is serving. The ones before it, at most `retention.rollbacks`, are those that rollbacks can return to.
    """
    return list_accepted(decisions)[-1 - settings.retention.rollbacks :]


def _list_named_attempts(settings: Settings, warehouse: Warehouse) -> dict[AttemptKey, Reason]:
    """Return the attempts that decisions or settings refer to, and the attempts that these started from."""
    kept: dict[AttemptKey, Reason] = {}
    decided = Decisions(settings).read_all()
    # The last accepted decision of each configuration: its run id without the night.
    last_accepted = {d.run_id[len(d.ds) :]: d for d in list_accepted(decided)}
    for decision in [*list_decisions_in_force(settings, decided), *last_accepted.values()]:
        for run, number in (decision.model, get_evaluated_attempt(decided, decision)):
            if number is not None:
                kept[run, number] = Reason.DECISION
    named = list_pinned_attempts(settings, warehouse)
    start = settings.trainer.warm_start
    if start not in (None, PREVIOUS, ACCEPTED) and (found := find_attempt(warehouse, str(start))):
        named.append(found)
    for attempt in named:
        kept.setdefault(attempt.key, Reason.PINNED)
    for run, number in list(kept):
        published = find_attempt(warehouse, run, number)
        try:
            job = read_job(published) if published else None
        except (DataError, ValueError):
            continue
        if job and job.start:
            kept.setdefault((job.start.run_id, job.start.attempt), Reason.START)
    return kept


def _list_newest_before(attempts: Sequence[Attempt], first: str) -> set[str]:
    """Return the newest published run of each configuration before `first`: the next night may start from it."""
    newest: dict[str, str] = {}
    for attempt in attempts:
        night = parse_night(attempt.run_id)
        if attempt.is_published and night and night < first and not is_reference(attempt.run_id):
            configuration = attempt.run_id[len(night) :]
            newest[configuration] = max(newest.get(configuration, ""), attempt.run_id)
    return set(newest.values())


def _compute_age(published: Attempt) -> float:
    """Return the days since an attempt was published."""
    return (time.time() - (published.folder / RECORD_FILE).stat().st_mtime) / SECONDS_PER_DAY


def compute_first_day(newest: str, days: int) -> str:
    """Return the first day that is at most `days` days before the newest night."""
    return list_days_before(newest, days)[0]


def parse_night(name: str) -> str:
    """Return the night of a run.

    Args:
        name: A run id, or `RUN@DAY` for the scores of a run on the rows of another night.

    Returns:
        The night: `DAY` if the name contains one. Empty if the name does not begin with a date.
    """
    run, _, day = name.partition("@")
    night = day or run[:10]
    return night if re.fullmatch(r"\d{4}-\d\d-\d\d", night) else ""
