"""Verify: compare the files of models with the hashes in their records, without Spark."""

from __future__ import annotations

from typing import Any

from star_ctr.conf.contracts.catalog import RECORD_FILE, Warehouse
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.registry.attempts import Attempt, find_damaged_files, get_attempt_folder, list_all_attempts
from star_ctr.jobs.registry.decisions import Decisions, find_serving
from star_ctr.jobs.registry.retained import list_decisions_in_force, list_pinned_attempts


def run(settings: Settings, everything: bool = False) -> list[dict[str, Any]]:
    """Verify the files of the serving attempt, of attempts that a rollback can return to, and of pinned attempts.

    Args:
        settings: The settings, with the warehouse.
        everything: Also verify all other published attempts.

    Returns:
        One row per attempt: run_id, attempt, reason (the reason to verify it), files (their number) and damaged (the
        names of damaged or missing files, separated by commas).
    """
    warehouse = Warehouse(settings.paths)
    decided = Decisions(settings).read_all()
    now = find_serving(decided)
    reasons: dict[tuple[str, int], str] = {}
    for decision in list_decisions_in_force(settings, decided):
        reasons[decision.model] = "serving" if now and decision.model == now.model else "for a rollback"
    for attempt in list_pinned_attempts(settings, warehouse):
        reasons.setdefault(attempt.key, "pinned")
    if everything:
        for attempt in list_all_attempts(warehouse):
            if attempt.is_published:
                reasons.setdefault(attempt.key, "published")
    return [_verify(warehouse, *model, reason) for model, reason in reasons.items()]


def _verify(warehouse: Warehouse, run_id: str, number: int, reason: str) -> dict[str, Any]:
    """Verify the files of an attempt; a missing or unreadable record counts as damaged."""
    attempt = Attempt(run_id, number, get_attempt_folder(warehouse, run_id, number))
    row = {"run_id": run_id, "attempt": number, "reason": reason}
    try:
        return {**row, "files": len(attempt.record()["files"]), "damaged": ", ".join(find_damaged_files(attempt))}
    except DataError:  # the record is missing, or is not valid JSON
        return {**row, "files": 0, "damaged": RECORD_FILE}
