"""Clean: delete data that is older than the ages in the section `retention` and no longer needed.

Runs without Spark. Partitions are deleted in one commit per table. Their files are deleted `retention.replaced` days
later, so that readers of older versions can finish. Delta's VACUUM only considers ages. This module also keeps the rows
that the remaining attempts were trained on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import DeltaError

from star_ctr.conf.contracts.catalog import RECORD_FILE, TABLES, Warehouse
from star_ctr.conf.files import is_remote, open_folder, remove_folder
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.history.old_partitions import (
    HISTORY_TABLES,
    describe_partition,
    find_base_for_cleaning,
    measure_old_partitions,
    remove_partitions,
    remove_records,
)
from star_ctr.jobs.history.roll_ups import Partition
from star_ctr.jobs.io.delta_rows import make_any_condition
from star_ctr.jobs.io.split_commits import REMOVED
from star_ctr.jobs.registry.attempts import Attempt, list_all_attempts, read_job, reserve_number
from star_ctr.jobs.registry.retained import (
    KEEP_ROWS,
    SECONDS_PER_DAY,
    AttemptKey,
    Reason,
    compute_first_day,
    list_kept_attempts,
    parse_night,
)

_DELETED = ".deleted"
"""Suffix of an attempt's folder while it is being deleted."""
_SPLITS = ("split", "vocabularies", "refit_split", "refit_vocabularies")


class Removal(NamedTuple):
    """Partition values of a table, attempts or replays to delete, with their size in bytes and the reason."""

    what: str
    names: tuple[str, ...]
    bytes: int
    reason: str


class CleaningPlan(NamedTuple):
    """The data that `clean` deletes, and the attempts that it keeps with the reason for each.

    Attributes:
        removals: Everything that is deleted.
        attempts: The attempts to delete.
        replays: The folders of the replays to delete.
        kept: The attempts that are kept, with the reason.
        history: The partitions of the state of the history to delete, by table.
    """

    removals: list[Removal]
    attempts: list[Attempt]
    replays: list[Path]
    kept: dict[AttemptKey, Reason]
    history: dict[str, list[Partition]]

    def names(self, what: str) -> set[str]:
        """Return the names to delete from `what`: a table, `models` or `replays`."""
        return {name for removal in self.removals if removal.what == what for name in removal.names}


def plan_removals(settings: Settings) -> CleaningPlan:
    """Find data that is older than the ages in `retention` and no longer needed, without deleting anything."""
    warehouse, ages = Warehouse(settings.paths), settings.retention
    attempts = list_all_attempts(warehouse)
    nights = sorted(
        {night for table in ("features", "split", "scores") for night in _list_nights(warehouse, table)} - {""}
    )
    newest = nights[-1] if nights else ""
    kept = list_kept_attempts(settings, warehouse, attempts, newest)
    unneeded = [a for a in attempts if a.key not in kept]
    removals = []
    if newest and ages.features is not None:
        # Also keep the training window of the next night.
        first = compute_first_day(newest, max(ages.features, settings.window.days))
        for table in ("features", "labels"):
            removals += _list_removals(warehouse, table, lambda day: day < first, f"before {first}")
    if newest and ages.splits is not None:
        # Also keep the training days of the oldest kept night, which may be stored once for all nights.
        extra = settings.window.days if settings.split.vocabulary == "grown" else 0
        extra = max(extra, settings.reference.window_days) if settings.reference else extra
        first, training = compute_first_day(newest, ages.splits + extra), _list_nights_in_training(attempts)
        for table in _SPLITS:
            removals += _list_removals(
                warehouse, table, lambda ds: ds < first and ds not in training, f"before {first}"
            )
    if newest and ages.scores is not None:
        first = compute_first_day(newest, ages.scores)
        runs = {run for (run, _), reason in kept.items() if reason in KEEP_ROWS}
        removals += _list_removals(
            warehouse, "scores", lambda name: "" < parse_night(name) < first and name not in runs, f"before {first}"
        )
    history = {}
    base = find_base_for_cleaning(settings, newest, ages.history) if newest and ages.history is not None else None
    for table in HISTORY_TABLES:
        if base and (sizes := measure_old_partitions(warehouse, table, base)):
            history[table] = sorted(sizes)
            names = tuple(map(describe_partition, history[table]))
            removals.append(Removal(table, names, sum(sizes.values()), f"merged into the base that ends before {base}"))
    removals += [Removal("models", (str(a),), _measure_folder(a.folder), "superseded or too old") for a in unneeded]
    replays = _find_old_replays(settings, warehouse)
    removals += [
        Removal("replays", (replay.name,), _measure_folder(replay), "superseded or too old") for replay in replays
    ]
    return CleaningPlan(removals, unneeded, replays, kept, history)


def remove(settings: Settings, planned: CleaningPlan) -> None:
    """Delete the data of a plan. If the call is interrupted, the next one completes it."""
    warehouse = Warehouse(settings.paths)
    for table in ("features", "labels", *_SPLITS, "scores"):
        if names := sorted(planned.names(table)):
            delta = DeltaTable(warehouse.table(table))
            metadata = {"userMetadata": json.dumps({REMOVED: names})}
            delta.delete(
                make_any_condition(_get_partition_column(table), names),
                commit_properties=CommitProperties(custom_metadata=metadata),
            )
    remove_records(settings, {p for partitions in planned.history.values() for p in partitions})
    for table, partitions in planned.history.items():
        remove_partitions(settings, table, partitions)
    for attempt in planned.attempts:
        reserve_number(warehouse, attempt)
        # Without its record, an attempt is not published. If the deletion is interrupted, the next call finds the job.
        # A local folder gets a name that is not that of an attempt.
        if is_remote(attempt.folder):
            (attempt.folder / RECORD_FILE).unlink(missing_ok=True)
            remove_folder(attempt.folder, last="job.json")
        else:
            attempt.folder.rename(attempt.folder.with_name(f".{attempt.folder.name}{_DELETED}"))
    for folder in [*open_folder(warehouse.models).glob(f"*/.attempt-*{_DELETED}"), *planned.replays]:
        remove_folder(folder)


def _find_old_replays(settings: Settings, warehouse: Warehouse) -> list[Path]:
    """Return the folders of replays that are older than `retention.attempts`."""
    if settings.retention.attempts is None:
        return []
    limit = time.time() - SECONDS_PER_DAY * settings.retention.attempts
    folders = (open_folder(warehouse.root) / "replays").glob("*")
    return sorted(folder for folder in folders if _find_last_change(folder) < limit)


def _find_last_change(folder: Path) -> float:
    """Return when a folder was changed last, in seconds since 1970; folders in object stores have no time."""
    files = [file for file in folder.rglob("*") if file.is_file()] if is_remote(folder) else [folder]
    return max((file.stat().st_mtime for file in files), default=0.0)


def vacuum_files(
    settings: Settings, kept: Mapping[AttemptKey, Reason], days: float | None = None, dry_run: bool = False
) -> list[dict[str, Any]]:
    """Delete table files that neither the current version nor a kept attempt needs.

    Args:
        settings: The settings, with the warehouse.
        kept: The kept attempts, with the reason for each. The rows of an attempt are kept regardless of age if the
            reason is in `KEEP_ROWS`, and otherwise until its night is older than `retention.splits`.
        days: Days to keep a file after it was replaced; `retention.replaced` by default.
        dry_run: Only report the files, without deleting them.

    Returns:
        One row per table: table, files, bytes, the number of versions kept for runs, and a note if no files of the
        table can be deleted.
    """
    warehouse = Warehouse(settings.paths)
    days = settings.retention.replaced if days is None else days
    nights = {parse_night(run) for run, _ in kept} - {""}
    age = settings.retention.splits
    first = compute_first_day(max(nights), age) if nights and age is not None else ""
    rows = {key for key, reason in kept.items() if reason in KEEP_ROWS or parse_night(key[0]) >= first}
    pinned = _list_pinned_versions(warehouse, rows)
    found = []
    for name in TABLES:
        table = warehouse.table(name)
        if not DeltaTable.is_deltatable(table):
            continue
        # Delta's `keep_versions` would keep whole versions, including the rows of other nights.
        old = DeltaTable(table).vacuum(round(days * 24), dry_run=True, enforce_retention_duration=False, full=True)
        note = ""
        try:
            needed = {f for version, days in pinned.get(name, ()) for f in _list_pinned_files(table, version, days)}
            names = {_get_file_name(path) for path in old} - needed
        except DeltaError as error:
            # Without the old log, the files of a kept run cannot be distinguished from others.
            names, note = set(), f"nothing is deleted, because a version of a kept run cannot be read: {error}"
        fs, root = fsspec.core.url_to_fs(table)
        existing = fs.find(root, detail=True)
        # Keep the checksum files of the files that are kept.
        names -= _name_checksums({_get_file_name(path) for path in existing} - names)
        files = {path: info["size"] for path, info in existing.items() if _get_file_name(path) in names}
        if not dry_run:
            for path in files:
                fs.rm_file(path)
        size = sum(files.values())
        versions = len(pinned.get(name, ()))
        found.append(
            {"table": name, "files": len(files), "bytes": size, "versions kept for runs": versions, "note": note}
        )
    return found


def _get_file_name(path: str) -> str:
    """Return the name of a file without its folders, which the Delta log and the file system encode differently.

    The names of data files are unique within a table.
    """
    return path.rsplit("/", 1)[-1]


def _name_checksums(names: set[str]) -> set[str]:
    """Return the names of the checksum files that Hadoop writes next to files on local disks."""
    return {f".{name}.crc" for name in names}


def _list_pinned_files(table: str, version: int, days: Collection[str]) -> list[str]:
    """Return the names of the data files of some days in a version of the table at path `table`."""
    actions = DeltaTable(table, version=version).get_add_actions(flatten=True)
    rows = zip(actions.column("path").to_pylist(), actions.column("partition.ds").to_pylist(), strict=True)
    return [_get_file_name(path) for path, night in rows if night in days]


def _list_pinned_versions(
    warehouse: Warehouse, kept: set[tuple[str, int]]
) -> dict[str, set[tuple[int, tuple[str, ...]]]]:
    """Return the versions and days that the kept attempts are pinned to, by table."""
    pinned: dict[str, set[tuple[int, tuple[str, ...]]]] = {}
    for attempt in list_all_attempts(warehouse):
        if attempt.key in kept:
            job = read_job(attempt)
            paths = {"split": job.split, "vocabularies": job.vocabularies}
            for name, version in job.versions.items():
                days = (*job.days, job.ds) if name == "split" else (job.ds,)
                pinned.setdefault(Path(paths[name]).name, set()).add((version, days))
    return pinned


def _list_nights_in_training(attempts: Sequence[Attempt]) -> set[str]:
    """Return the nights whose newest attempt is unpublished, and their training days.

    If training resumes, it reads these days of the split.
    """
    newest = {a.run_id: a for a in attempts}
    unpublished = {run: attempt for run, attempt in newest.items() if not attempt.is_published}
    return {day for run, attempt in unpublished.items() for day in (parse_night(run), *read_job(attempt).days)}


def _get_partition_column(table: str) -> str:
    return TABLES[table].partitions[0]


def _list_nights(warehouse: Warehouse, table: str) -> set[str]:
    return {parse_night(name) for name in _measure_partitions(warehouse, table)}


def _measure_partitions(warehouse: Warehouse, table: str) -> dict[str, int]:
    """Return the size in bytes of each value of a table's first partition column; empty if the table does not exist."""
    path = warehouse.table(table)
    if not DeltaTable.is_deltatable(path):
        return {}
    actions = DeltaTable(path).get_add_actions(flatten=True)
    values = actions.column(f"partition.{_get_partition_column(table)}").to_pylist()
    sizes: dict[str, int] = {}
    for value, size in zip(values, actions.column("size_bytes").to_pylist(), strict=True):
        if value is not None:
            sizes[value] = sizes.get(value, 0) + size
    return sizes


def _list_removals(warehouse: Warehouse, table: str, is_old: Callable[[str], bool], reason: str) -> list[Removal]:
    sizes = {name: size for name, size in _measure_partitions(warehouse, table).items() if is_old(name)}
    return [Removal(table, tuple(sorted(sizes)), sum(sizes.values()), reason)] if sizes else []


def _measure_folder(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
