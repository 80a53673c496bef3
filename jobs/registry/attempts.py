"""Attempts of a run: each attempt has its own folder, which never changes after it is published.

    models/<run_id>/attempt-001/    job.json, result.json, checkpoint/, tensorboard/
                                    model.safetensors, layout.json, vocabularies/
                                    record.json     written last and atomically, with the hash of each file

A run is trained again if its inputs or the code changed, for example because a log was restated. It is then trained in
a new attempt, so that the serving model remains the model that was evaluated. A run refers to its newest published
attempt.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from star_ctr.conf.contracts.catalog import LAYOUT_FILE, RECORD_FILE, RESULT_FILE, WEIGHTS_FILE, Warehouse
from star_ctr.conf.contracts.stored import parse_stored
from star_ctr.conf.contracts.vocabulary import list_vocabulary_files
from star_ctr.conf.errors import DataError, UserError, suggest_nearest
from star_ctr.conf.files import (
    copy_file,
    hash_file,
    open_folder,
    remove_folder,
    sync_folder,
    write_json,
    write_text,
)
from star_ctr.model.training.job import TrainingJob

_ATTEMPT = re.compile(r"attempt-(\d+)")
_LAST_DELETED = "last-attempt"
"""Name of the file in a run's folder that holds the highest number among its deleted attempts."""
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Attempt(NamedTuple):
    """An attempt to train a run, with its number and its folder."""

    run_id: str
    number: int
    folder: Path

    def __str__(self) -> str:
        """Return the name of the attempt for messages."""
        return f"{self.run_id} (attempt {self.number})"

    @property
    def key(self) -> tuple[str, int]:
        """Run id and number. Decisions and tables refer to the attempt by these."""
        return self.run_id, self.number

    @property
    def is_published(self) -> bool:
        """Whether training is complete and the attempt can be used for scoring."""
        return (self.folder / RECORD_FILE).exists()

    def record(self) -> dict[str, Any]:
        """Read `record.json`; raises `DataError` if the attempt is not published."""
        return _read_json(self.folder / RECORD_FILE)


def check_run_id(run_id: str) -> str:
    """Return the run id if it is safe to use as a folder name; raises `UserError` otherwise."""
    if not _RUN_ID.fullmatch(run_id):
        raise UserError(f"--run-id {run_id}: not a run id. `star-ctr serving` and the table `runs` list the run ids")
    return run_id


def get_attempt_folder(warehouse: Warehouse, run_id: str, number: int) -> Path:
    """Return the folder of an attempt. The folder may not exist."""
    return open_folder(warehouse.run_folder(check_run_id(run_id))) / f"attempt-{number:03d}"


def list_attempts(warehouse: Warehouse, run_id: str) -> list[Attempt]:
    """List all attempts of a run, including unpublished ones, oldest first."""
    return _attempts_in(open_folder(warehouse.run_folder(check_run_id(run_id))), run_id)


def _attempts_in(run: Path, run_id: str) -> list[Attempt]:
    found = [(int(match[1]), path) for path in run.glob("attempt-*") if (match := _ATTEMPT.fullmatch(path.name))]
    return [Attempt(run_id, number, path) for number, path in sorted(found)]


def list_all_attempts(warehouse: Warehouse) -> list[Attempt]:
    """List the attempts of all runs that have a `job.json`, including unpublished ones."""
    runs = sorted({job.parent.parent.name for job in open_folder(warehouse.models).glob("*/attempt-*/job.json")})
    attempts = [attempt for run in runs for attempt in list_attempts(warehouse, run)]
    return [attempt for attempt in attempts if (attempt.folder / "job.json").exists()]


def find_attempt(warehouse: Warehouse, run_id: str, number: int | None = None) -> Attempt | None:
    """Find a published attempt of a run.

    Args:
        warehouse: The warehouse.
        run_id: The run.
        number: The number of the attempt; None for the newest published one.

    Returns:
        The attempt; None if the run has no such published attempt.
    """
    published = [a for a in list_attempts(warehouse, run_id) if a.is_published and number in (None, a.number)]
    return published[-1] if published else None


def get_published_attempt(warehouse: Warehouse, run_id: str, number: int | None = None) -> Attempt:
    """Return a published attempt of a run, like `find_attempt`; raises `UserError` if there is none."""
    if found := find_attempt(warehouse, run_id, number):
        return found
    if number is not None and find_attempt(warehouse, run_id):
        numbers = [str(a.number) for a in list_attempts(warehouse, run_id) if a.is_published]
        raise UserError(f"--attempt {number}: {run_id} has no such attempt; it has attempts {', '.join(numbers)}")
    finished = warehouse.list_finished_runs()[::-1]
    newest = f"the newest: {', '.join(finished[:5])}" if finished else "none exists yet; run `star-ctr train` first"
    raise UserError(
        f"--run-id {run_id}: no finished run in {warehouse.models}{suggest_nearest(run_id, finished)} ({newest})"
    )


def assign_attempt(warehouse: Warehouse, job: TrainingJob) -> TrainingJob:
    """Assign an attempt to a training job.

    1. If the newest published attempt is an undamaged result of this job, reuse it.
    2. If a later, unpublished attempt belongs to this job, resume it.
    3. Otherwise, use a new number, higher than that of any existing or deleted attempt of the run.

    Args:
        warehouse: The warehouse.
        job: The job.

    Returns:
        A copy of the job with the number and the folder of the attempt.
    """
    attempts, reserved = list_attempts(warehouse, job.run_id), _read_last_reserved(warehouse, job.run_id)
    for attempt in reversed(attempts):
        if attempt.is_published:
            if job.is_result(attempt.record()) and not find_damaged_files(attempt):
                return job.for_attempt(attempt.number, attempt.folder)
            break
        # The deletion of an attempt may have been interrupted.
        if attempt.number > reserved and _read_fingerprint(attempt) == job.fingerprint():
            return job.for_attempt(attempt.number, attempt.folder)
    number = max([reserved, *(a.number for a in attempts)]) + 1
    return job.for_attempt(number, get_attempt_folder(warehouse, job.run_id, number))


def reserve_number(warehouse: Warehouse, attempt: Attempt) -> None:
    """Reserve the number of an attempt that will be deleted, so that it is not used again.

    Decisions still refer to the deleted attempt by its number.
    """
    last = max(attempt.number, _read_last_reserved(warehouse, attempt.run_id))
    write_text(open_folder(warehouse.run_folder(attempt.run_id)) / _LAST_DELETED, f"{last}\n")


def _read_last_reserved(warehouse: Warehouse, run_id: str) -> int:
    file = open_folder(warehouse.run_folder(run_id)) / _LAST_DELETED
    return int(file.read_text()) if file.exists() else 0


def get_attempt(job: TrainingJob) -> Attempt:
    """Return the attempt that a job trains."""
    return Attempt(job.run_id, job.attempt, job.path)


def read_job(attempt: Attempt) -> TrainingJob:
    """Read the job of an attempt."""
    file = attempt.folder / "job.json"
    return parse_stored(TrainingJob, _read_json(file), file)


def _read_fingerprint(attempt: Attempt) -> str | None:
    """Return the fingerprint of an attempt's job; None if it cannot be read."""
    try:
        return read_job(attempt).fingerprint()
    except (DataError, ValueError):
        return None


def publish_attempt(job: TrainingJob, keep: bool = False) -> dict[str, Any]:
    """Publish a trained attempt: copy its vocabularies, then write the record with the hash of each file.

    Does nothing if the attempt is already published. If the newest published attempt of the run has a bit-identical
    model, the new attempt is deleted, so that running a night again on the same rows does not add an attempt.

    Args:
        job: The job of the attempt.
        keep: Keep the attempt even if the newest published attempt has the same model.

    Returns:
        The record of the attempt that holds the model.

    Raises:
        DataError: Training did not finish.
    """
    attempt = get_attempt(job)
    if attempt.is_published:
        return attempt.record()
    result = read_result(job)
    copy_vocabularies(job)
    files = {str(file.relative_to(attempt.folder)): hash_file(file) for file in _list_published_files(attempt.folder)}
    if not keep and (same := _find_same_model(attempt, files)):
        remove_folder(attempt.folder)
        return same.record()
    sync_folder(attempt.folder)
    record = {**result, "attempt": attempt.number, "files": files}
    write_json(attempt.folder / RECORD_FILE, record)
    return record


def _find_same_model(attempt: Attempt, files: dict[str, str]) -> Attempt | None:
    """Return the newest published attempt of the run if its model has the same files; None otherwise."""
    others = _attempts_in(attempt.folder.parent, attempt.run_id)
    newest = next((other for other in reversed(others) if other.is_published), None)
    if newest is None or find_damaged_files(newest):
        return None
    return newest if _select_model_files(newest.record()["files"]) == _select_model_files(files) else None


def _select_model_files(files: dict[str, str]) -> dict[str, str]:
    """Return the hashes of the files that determine scores."""
    prefixes = (WEIGHTS_FILE, LAYOUT_FILE, "vocabularies/")
    return {name: digest for name, digest in files.items() if name.startswith(prefixes)}


def read_result(job: TrainingJob) -> dict[str, Any]:
    """Read the results of a finished attempt.

    Args:
        job: The job of the attempt.

    Returns:
        The record of the attempt if it is published; otherwise the results that the trainer wrote.

    Raises:
        DataError: Training did not finish, or the file is not valid JSON.
    """
    if (job.path / RECORD_FILE).exists():
        return _read_json(job.path / RECORD_FILE)
    return _read_json(job.path / RESULT_FILE)


def _list_published_files(folder: Path) -> list[Path]:
    """List the files to publish: those of the model, and its last checkpoint, which a warm start reads."""
    files = [folder / name for name in ("job.json", RESULT_FILE, LAYOUT_FILE, WEIGHTS_FILE)]
    last = sorted((folder / "checkpoint").glob("step-*"))[-1:]
    return [*files, *(file for inner in (folder / "vocabularies", *last) for file in sorted(inner.iterdir()))]


def copy_vocabularies(job: TrainingJob) -> None:
    """Copy the vocabularies of a job into its attempt, so that the encoding does not depend on later nights."""
    files = list_vocabulary_files(job.vocabularies, job.versions["vocabularies"], job.ds)
    target = job.path / "vocabularies"
    remove_folder(target)
    target.mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(sorted(files)):
        copy_file(file, target / f"part-{number:05d}.parquet")


def find_damaged_files(attempt: Attempt) -> list[str]:
    """Return the names of the files of a published attempt that are missing or whose hash differs from the record."""
    damaged = []
    for name, digest in attempt.record()["files"].items():
        try:
            if hash_file(attempt.folder / name) == digest:
                continue
        except OSError:
            pass
        damaged.append(name)
    return damaged


def check_files(attempt: Attempt) -> Attempt:
    """Return the attempt after verifying its files; raises `DataError` if any file is missing or damaged."""
    if damaged := find_damaged_files(attempt):
        raise DataError(
            f"{attempt.folder}: files differ from the record of {attempt}: {', '.join(damaged)}. Restore these files, "
            "or serve another model with `star-ctr promote` or `star-ctr rollback`"
        )
    return attempt


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: not found; training did not finish. Run `star-ctr train` again") from None
    except ValueError:
        raise DataError(f"{path}: not valid JSON. Restore the file, or run `star-ctr train` again") from None
    return found
