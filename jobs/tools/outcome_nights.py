"""Find the evaluated nights that have no metrics of a further outcome yet, and explain why. Needs no Spark."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from typing import Any

from star_ctr.conf.contracts.catalog import Warehouse
from star_ctr.conf.contracts.domains import OVERALL
from star_ctr.conf.contracts.run_id import make_run_id
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.day_records import DayRecord, DayRecords
from star_ctr.jobs.io.delta_rows import quote_literal, read_rows
from star_ctr.jobs.io.label_records import AS_OF, OUTCOMES_CLOSE
from star_ctr.jobs.io.label_records import PART as LABELS

_NAMED = 5
"""Maximum number of nights that a sentence lists one by one."""


def select_runs(settings: Settings, rows: Sequence[dict[str, Any]], run_id: str | None) -> list[dict[str, Any]]:
    """Return the rows of the runs with the settings and the seed of `run_id`; by default, with those of `settings`."""
    if run_id is None:
        return [row for row in rows if row["run_id"] == make_run_id(settings, row["ds"])]
    configuration = next((run_id.removeprefix(row["ds"]) for row in rows if row["run_id"] == run_id), None)
    return [row for row in rows if row["run_id"] == f"{row['ds']}{configuration}"]


def list_evaluated_nights(settings: Settings, run_id: str | None = None) -> dict[str, str]:
    """Return the run of each evaluated night, oldest first.

    Args:
        settings: The settings, with the warehouse.
        run_id: As for `select_runs`.
    """
    rows = read_rows(Warehouse(settings.paths).table("metrics"), f"domain = '{OVERALL}'", ["ds", "run_id"])
    return {row["ds"]: row["run_id"] for row in sorted(select_runs(settings, rows, run_id), key=lambda row: row["ds"])}


def explain_missing_nights(
    settings: Settings, outcome: str, since: str | None = None, until: str | None = None, run_id: str | None = None
) -> str:
    """Explain why evaluated nights have no metrics of an outcome.

    Args:
        settings: The settings, with the warehouse.
        outcome: The name of the outcome in `label.also`.
        since: The first night; no limit by default.
        until: The last night; no limit by default.
        run_id: As for `select_runs`.

    Returns:
        Which nights have none, and which night will write them; empty if all nights have metrics.
    """
    evaluated = list_evaluated_nights(settings, run_id)
    table = Warehouse(settings.paths).table("outcome_metrics")
    known = {row["run_id"] for row in read_rows(table, f"outcome = {quote_literal(outcome)}", ["run_id"])}
    missing = [
        night for night, run in evaluated.items() if run not in known and (since or "") <= night <= (until or night)
    ]
    if not missing:
        return ""
    newest, records = max(evaluated), DayRecords(settings).read(LABELS)
    closing = _find_closing_nights(settings, outcome, missing, records)
    still_open = [night for night in missing if closing[night] > newest]
    # If an older night was run again, its labels are those that were known on that night.
    reopened = [
        night
        for night in missing
        if night not in still_open and night in records and closing[night] > records[night].outputs.get(AS_OF, night)
    ]
    others = [night for night in missing if night not in (*still_open, *reopened)]
    parts = []
    if still_open:
        event, is_one = settings.label.outcome_events[outcome], len(still_open) == 1
        computed = "its metrics" if is_one else "the first of their metrics"
        parts.append(
            f"the attribution windows ({event.window_hours:g} h) of {_join(still_open)} are still open; night "
            f"{min(closing[night] for night in still_open)} computes {computed}"
        )
    if reopened:
        parts.append(f"the labels of {_join(reopened)} are open again; the next night computes them and their metrics")
    if others:
        parts.append(
            f"{_join(others)} {'was' if len(others) == 1 else 'were'} evaluated without metrics of {outcome}; "
            f"`star-ctr evaluate --ds {newest}` computes them if the scores and labels still exist"
        )
    return "; ".join(parts)


def _find_closing_nights(
    settings: Settings, outcome: str, nights: Sequence[str], records: Mapping[str, DayRecord]
) -> Mapping[str, str]:
    """Return the day at whose end the outcome of each night is final."""
    event = settings.label.outcome_events.get(outcome)
    if event is None:
        return {night: night for night in nights}
    days = math.ceil(event.window_hours / 24)
    # The records know the time of the last impression. Without one, assume the end of the day.
    latest = {night: (dt.date.fromisoformat(night) + dt.timedelta(days=days)).isoformat() for night in nights}
    found = {night: records[night].outputs.get(OUTCOMES_CLOSE, {}) for night in nights if night in records}
    return {night: found.get(night, {}).get(outcome, latest[night]) for night in nights}


def _join(nights: Sequence[str]) -> str:
    """Return nights as a list in words; only their number and limits if they are many."""
    if len(nights) > _NAMED:
        return f"{len(nights)} nights from {nights[0]} to {nights[-1]}"
    return " and ".join(part for part in (", ".join(nights[:-1]), nights[-1]) if part)
