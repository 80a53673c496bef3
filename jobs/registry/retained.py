"""The attempts that `clean` must keep, and why."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from enum import StrEnum

from star_ctr.conf.contracts.catalog import RECORD, Warehouse
from star_ctr.conf.contracts.dates import list_days_before
from star_ctr.conf.errors import DataError, UserError, suggest_nearest
from star_ctr.conf.settings.root import Settings
from star_ctr.conf.settings.trainer import ACCEPTED, PREVIOUS
from star_ctr.jobs.registry.attempts import Attempt, find_attempt, list_attempts, read_job
from star_ctr.jobs.registry.decisions import Decision, Decisions, get_evaluated_attempt, list_accepted

DAY = 24 * 3600.0
Key = tuple[str, int]
"""A run and the number of an attempt."""


class Reason(StrEnum):
    """Why an attempt is kept."""

    DECISION = "serving, or needed for a rollback"
    PINNED = "pinned"
    START = "the start of a kept training"
    NEWEST = "the newest attempt of its run"
    RECENT = "superseded recently"
    UNFINISHED = "not finished yet"


KEEP_ROWS = (Reason.DECISION, Reason.PINNED, Reason.UNFINISHED)
"""Reasons for which the rows of an attempt are kept at any age, too."""


def list_kept_attempts(
    settings: Settings, warehouse: Warehouse, attempts: Sequence[Attempt], newest: str
) -> dict[Key, Reason]:
    """Return the attempts to keep, with the reason for each.

    Args:
        settings: The settings, with the ages in `retention`.
        warehouse: The warehouse.
        attempts: All attempts of all runs.
        newest: The newest night; empty if there is none.

    Raises:
        UserError: `retention.pinned` names a run without a published attempt.
    """
    ages, kept = settings.retention, _list_named_attempts(settings, warehouse)
    first = compute_first_day(newest, ages.models) if ages.models is not None and newest else ""
    runs = {*_list_newest_before(attempts, first), *(run for run, _ in kept)}
    for run in dict.fromkeys(a.run_id for a in attempts):
        if not parse_night(run) or (parse_night(run) < first and run not in runs):
            continue
        of_run = list_attempts(warehouse, run)
        published = [a for a in of_run if a.is_published]
        for attempt in of_run:
            if not attempt.is_published and (not published or attempt.number > published[-1].number):
                kept.setdefault(attempt.key, Reason.UNFINISHED)
            elif published and attempt.number == published[-1].number:
                # Also of a run with another kept attempt: a run refers to its newest one.
                kept.setdefault(attempt.key, Reason.NEWEST)
            elif published and (ages.attempts is None or _compute_age(published[-1]) < ages.attempts):
                kept.setdefault(attempt.key, Reason.RECENT)
    return kept


def list_pinned_attempts(settings: Settings, warehouse: Warehouse) -> list[Attempt]:
    """Return the newest attempts of the runs in `retention.pinned`; raises `UserError` if one has none."""
    found = []
    for name in settings.retention.pinned:
        attempt = find_attempt(warehouse, name)
        if attempt is None:
            known = warehouse.list_finished_runs()
            raise UserError(f"retention.pinned: {name} has no published attempt{suggest_nearest(name, known)}")
        found.append(attempt)
    return found


def list_decisions_in_force(settings: Settings, decisions: Sequence[Decision]) -> list[Decision]:
    """Return the decision that is serving last, and before it those that `retention.rollbacks` allows to return to."""
    return list_accepted(decisions)[-1 - settings.retention.rollbacks :]


def _list_named_attempts(settings: Settings, warehouse: Warehouse) -> dict[Key, Reason]:
    """Return the attempts that decisions or settings name, and those that their trainings started from."""
    kept: dict[Key, Reason] = {}
    decided = Decisions(settings).all()
    of_configuration = {d.run_id[len(d.ds) :]: d for d in list_accepted(decided)}
    for decision in [*list_decisions_in_force(settings, decided), *of_configuration.values()]:
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
    """Return the newest run of each configuration before a day, because the next night may start from it."""
    newest: dict[str, str] = {}
    for attempt in attempts:
        night = parse_night(attempt.run_id)
        if attempt.is_published and night and night < first:
            configuration = attempt.run_id[len(night) :]
            newest[configuration] = max(newest.get(configuration, ""), attempt.run_id)
    return set(newest.values())


def _compute_age(published: Attempt) -> float:
    """Return the number of days since an attempt was published."""
    return (time.time() - (published.folder / RECORD).stat().st_mtime) / DAY


def compute_first_day(newest: str, days: int) -> str:
    """Return the first day that is at most `days` days before the newest night."""
    return list_days_before(newest, days)[0]


def parse_night(name: str) -> str:
    """Return the night of a run; for `RUN@DAY`, the day on which the run was compared with another one.

    Empty if the name does not begin with a day, as that of scores from elsewhere.
    """
    run, _, day = name.partition("@")
    night = day or run[:10]
    return night if re.fullmatch(r"\d{4}-\d\d-\d\d", night) else ""
