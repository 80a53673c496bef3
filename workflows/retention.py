"""Retention: implement `star-ctr clean`, which deletes old data and records the removed steps in the journal.

The journal is written before the data is deleted, so that a step without results never counts as done. A removed step
runs again only if a later step of its night must run.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from star_ctr.conf.contracts.dates import list_window_days
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.tools import vacuum
from star_ctr.workflows.journal import Entry, Journal


def run(settings: Settings, dry_run: bool) -> list[dict[str, Any]]:
    """Delete data that is older than the ages in `retention` and no longer needed.

    Args:
        settings: The settings.
        dry_run: Only report what would be deleted.

    Returns:
        One row per deletion: `what` (the table, `models` or `replays`), `items`, `bytes` and `reason`. A table whose
        files cannot be deleted has a row with 0 bytes and the reason.
    """
    planned = vacuum.plan_removals(settings)
    if not dry_run:
        journal = Journal(settings)
        for entry in _make_removed_entries(settings, planned, journal.read_entries()):
            journal.add(entry)
        vacuum.remove(settings, planned)
    files = vacuum.vacuum_files(settings, planned.kept, dry_run=dry_run)
    rows = [
        {"what": r.what, "items": ", ".join(_shorten(r.names)), "bytes": r.bytes, "reason": r.reason}
        for r in planned.removals
    ]
    reason = f"replaced more than {settings.retention.replaced:g} days ago"
    rows += [
        {"what": found["table"], "items": f"{found['files']} files", "bytes": found["bytes"], "reason": reason}
        for found in files
        if found["files"]
    ]
    rows += [{"what": f["table"], "items": "", "bytes": 0, "reason": f["note"]} for f in files if f["note"]]
    return rows


def _shorten(names: tuple[str, ...], limit: int = 3) -> list[str]:
    """Return the first names, and the number of the others."""
    return [*names[:limit], *([f"and {len(names) - limit} more"] if len(names) > limit else [])]


def _make_removed_entries(settings: Settings, planned: vacuum.CleaningPlan, entries: list[Entry]) -> Iterator[Entry]:
    """Yield an entry for each done step whose results are deleted."""
    newest = {entry.key: entry for entry in entries}
    features, splits, scores = (planned.names(table) for table in ("features", "split", "scores"))
    kept_runs = {run for run, _ in planned.kept}
    models = {attempt.run_id for attempt in planned.attempts} - kept_runs
    for entry in newest.values():
        is_removed = (
            (entry.step == "features" and not features.isdisjoint(list_window_days(settings, entry.ds)))
            or (entry.step == "split" and entry.ds in splits)
            or (entry.step == "score" and entry.run_id in scores)
            or (entry.step == "train" and entry.run_id in models)
        )
        if is_removed and entry.state == "done":
            reason = "deleted by `star-ctr clean`"
            yield replace(entry, state="removed", at=dt.datetime.now(dt.UTC), seconds=None, reason=reason)
