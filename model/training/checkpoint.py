"""Checkpoints of a training: one folder per checkpoint, with safetensors files and a JSON file.

A checkpoint is written to a hidden folder, which is renamed when all its files are complete. `place.json` holds the
size and SHA-256 of each file. If a file is missing, truncated or changed, the previous checkpoint is used. Nothing is
unpickled, so that a run folder from an untrusted source cannot execute code.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from star_ctr.conf.errors import DataError
from star_ctr.conf.files import hash_file, sync_folder, write_json
from star_ctr.model.distributed.process_group import barrier

PROGRESS = "place.json"
_COMMON = "common.safetensors"


class DamagedCheckpointError(DataError):
    """A file of a checkpoint is missing or differs from what was written."""


def save(
    folder: Path,
    tensors: dict[str, Tensor],
    place: dict[str, Any],
    keep: int = 1,
    rank: int = 0,
    own: dict[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint and delete all but the newest `keep`.

    Args:
        folder: The folder of all checkpoints of a training.
        tensors: The tensors that all processes share; process 0 writes them.
        place: The state of the training other than tensors, as JSON; `step` names the checkpoint.
        keep: The number of checkpoints to keep.
        rank: The rank of this process.
        own: The tensors that only this process holds. If given, all processes must call this; else only process 0.
    """
    name = f"step-{place['step']:09d}"
    partial = folder / f".{name}.partial"
    if rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    if own is not None:
        barrier()
        _write(partial / _part_name(rank), own)
        barrier()
    if rank > 0:
        return
    _write(partial / _COMMON, tensors)
    files = {file.name: [file.stat().st_size, hash_file(file)] for file in sorted(partial.iterdir())}
    write_json(partial / PROGRESS, {**place, "files": files})
    sync_folder(partial)
    # Checkpoints of later steps are damaged; otherwise the training would have resumed from them.
    for other in _list_folders(folder):
        if other.name >= name:
            shutil.rmtree(other)
    partial.rename(folder / name)
    for other in _list_folders(folder)[keep:]:
        shutil.rmtree(other)


def _write(file: Path, tensors: dict[str, Tensor]) -> None:
    # Clone, because safetensors rejects tensors that share memory.
    save_file({name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}, str(file))


def _part_name(rank: int) -> str:
    return f"part-{rank}.safetensors"


def _list_folders(folder: Path) -> list[Path]:
    """List the folders of the checkpoints, newest first."""
    return sorted(folder.glob("step-*"), key=lambda path: path.name, reverse=True)


def list_checkpoints(folder: Path) -> list[dict[str, Any]]:
    """Return the contents of `place.json` of all complete checkpoints, newest first; checks the sizes of files only."""
    found = []
    for step in _list_folders(folder):
        try:
            place: dict[str, Any] = json.loads((step / PROGRESS).read_text(encoding="utf-8"))
            complete = all((step / name).stat().st_size == size for name, (size, _) in place["files"].items())
        except (OSError, ValueError, KeyError):
            continue
        if complete:
            found.append({**place, "folder": step.name})
    return found


def find_latest(folder: Path) -> dict[str, Any] | None:
    """Return the contents of `place.json` of the newest complete checkpoint; None if there is none."""
    return next(iter(list_checkpoints(folder)), None)


def is_intact(folder: Path, place: dict[str, Any]) -> bool:
    """Return whether the files of a checkpoint are those that were written."""
    try:
        return all(hash_file(folder / place["folder"] / name) == of for name, (_, of) in place["files"].items())
    except OSError:
        return False


def load(folder: Path, place: dict[str, Any], part: int | None = None) -> dict[str, Tensor]:
    """Return the common tensors of a checkpoint, or those of one process.

    Raises:
        DamagedError: The file is missing or differs from what was written.
    """
    file = folder / place["folder"] / (_COMMON if part is None else _part_name(part))
    try:
        intact = hash_file(file) == place["files"][file.name][1]
    except (OSError, KeyError):
        intact = False
    if not intact:
        raise DamagedCheckpointError(f"{file}: the checkpoint is damaged; delete the folder {file.parent}")
    tensors: dict[str, Tensor] = load_file(str(file))
    return tensors


def strip_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Select the tensors whose names start with a prefix, and strip the prefix."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
