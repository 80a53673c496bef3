"""Checkpoints of a training run: one folder per checkpoint, with safetensors files and a JSON file.

A checkpoint is written to a hidden folder, which is renamed when all its files are complete. In an object store, it is
written in place. `progress.json` is written last, and contains the progress of the training run, and the size and
SHA-256 of each file. If a file is missing, truncated or changed, the
previous checkpoint is used. Loading never unpickles anything, so a run folder from an untrusted source cannot execute
code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from star_ctr.conf.errors import DataError
from star_ctr.conf.files import hash_file, is_remote, remove_folder, sync_folder, write_json
from star_ctr.model.distributed.process_group import barrier
from star_ctr.model.tensor_files import read_tensors, write_tensors

PROGRESS_FILE = "progress.json"
"""Name of the file with the training progress and the hashes of the other files."""
_COMMON = "common.safetensors"
"""Name of the file with the tensors that all processes share."""


class DamagedCheckpointError(DataError):
    """A file of a checkpoint is missing or differs from what was written."""


def save(
    folder: Path,
    tensors: dict[str, Tensor],
    progress: dict[str, Any],
    keep: int = 1,
    rank: int = 0,
    part_tensors: dict[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint and delete all but the newest `keep` checkpoints.

    If `part_tensors` is given, all processes must call this. Otherwise, only process 0 may call it.

    Args:
        folder: Folder of all checkpoints of a training run.
        tensors: Tensors that all processes share; process 0 writes them.
        progress: Training state other than tensors, as JSON; `step` names the checkpoint.
        keep: Number of checkpoints to keep.
        rank: Rank of this process.
        part_tensors: Tensors that only this process holds.
    """
    name = f"step-{progress['step']:09d}"
    # Object stores cannot rename a folder.
    partial = folder / (name if is_remote(folder) else f".{name}.partial")
    if rank == 0:
        remove_folder(partial)
        partial.mkdir(parents=True, exist_ok=True)
    if part_tensors is not None:
        barrier()
        _write(partial / _part_name(rank), part_tensors)
        barrier()
    if rank > 0:
        return
    _write(partial / _COMMON, tensors)
    files = {file.name: [file.stat().st_size, hash_file(file)] for file in sorted(partial.iterdir())}
    write_json(partial / PROGRESS_FILE, {**progress, "files": files})
    sync_folder(partial)
    # Checkpoints of later steps are damaged. Otherwise, training would have resumed from them.
    for other in _list_folders(folder):
        if other.name >= name and other.name != partial.name:
            remove_folder(other)
    if partial.name != name:
        partial.rename(folder / name)
    for other in _list_folders(folder)[keep:]:
        remove_folder(other)


def _write(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors to a file."""
    # Clone, because safetensors rejects tensors that share memory.
    write_tensors(file, {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()})


def _part_name(rank: int) -> str:
    """Return the name of the file with the tensors that only one process holds."""
    return f"part-{rank}.safetensors"


def _list_folders(folder: Path) -> list[Path]:
    """List the folders of the checkpoints, newest first."""
    return sorted(folder.glob("step-*"), key=lambda path: path.name, reverse=True)


def list_checkpoints(folder: Path) -> list[dict[str, Any]]:
    """List the complete checkpoints of a training run.

    This compares only the sizes of files. `load` and `is_intact` compare their hashes.

    Args:
        folder: Folder of all checkpoints of a training run.

    Returns:
        The contents of `progress.json` of each complete checkpoint, with the name of its `folder`, newest first.
    """
    checkpoints = []
    for step in _list_folders(folder):
        try:
            progress: dict[str, Any] = json.loads((step / PROGRESS_FILE).read_text(encoding="utf-8"))
            is_complete = all((step / name).stat().st_size == size for name, (size, _) in progress["files"].items())
        except (OSError, ValueError, KeyError):
            continue
        if is_complete:
            checkpoints.append({**progress, "folder": step.name})
    return checkpoints


def find_latest(folder: Path) -> dict[str, Any] | None:
    """Return the contents of `progress.json` of the newest complete checkpoint; None if there is none."""
    return next(iter(list_checkpoints(folder)), None)


def is_intact(folder: Path, progress: dict[str, Any]) -> bool:
    """Return whether all files of a checkpoint have the hashes in its `progress.json`."""
    try:
        return all(
            hash_file(folder / progress["folder"] / name) == digest for name, (_, digest) in progress["files"].items()
        )
    except OSError:
        return False


def load(folder: Path, progress: dict[str, Any], part: int | None = None) -> dict[str, Tensor]:
    """Load the tensors of a checkpoint.

    Args:
        folder: Folder of all checkpoints of a training run.
        progress: Contents of the checkpoint's `progress.json`, from `list_checkpoints` or `find_latest`.
        part: Rank of the process whose tensors to load. By default, load the tensors that all processes share.

    Returns:
        The tensors by name.

    Raises:
        DamagedCheckpointError: The file is missing or differs from what was written.
    """
    file = folder / progress["folder"] / (_COMMON if part is None else _part_name(part))
    try:
        intact = hash_file(file) == progress["files"][file.name][1]
    except (OSError, KeyError):
        intact = False
    if not intact:
        raise DamagedCheckpointError(f"{file}: the checkpoint is damaged; delete the folder {file.parent}")
    return read_tensors(file)


def strip_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names start with a prefix, without the prefix."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
