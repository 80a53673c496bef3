"""Checkpoints: a torch.distributed.checkpoint folder of tensors, with its place in the run as JSON beside it.

A checkpoint is written under another name and counts once `latest.json` names it, which is replaced in
one step: killed anywhere, the one before still counts.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load as load_checkpoint
from torch.distributed.checkpoint.state_dict_saver import save as save_checkpoint

from star_ctr.conf.files import write_json
from star_ctr.model.processes import wait_for_all

LATEST = "latest.json"


def save(
    folder: Path,
    tensors: dict[str, Tensor],
    place: dict[str, Any],
    keep: int = 1,
    rank: int = 0,
    own: dict[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint of `tensors` at `place` (JSON, with `step` in it), and keep the newest `keep`.

    Of several processes the first one does, unless each has tensors of its `own` (None: it has not): then all of them
    call this.
    """
    name = f"step-{place['step']:09d}"
    target = folder / name
    if rank == 0:
        shutil.rmtree(target, ignore_errors=True)
    if own is not None:
        wait_for_all()
        _write(target / f"part-{rank}", own)
        wait_for_all()
    if rank > 0:
        return
    _write(target, tensors)
    write_json(folder / LATEST, {**place, "folder": name})
    others = sorted((p for p in folder.glob("step-*") if p.name != name), key=lambda p: p.name, reverse=True)
    for other in others[keep - 1 :]:
        shutil.rmtree(other, ignore_errors=True)


def _write(target: Path, tensors: dict[str, Tensor]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        save_checkpoint(dict(tensors), checkpoint_id=str(target), no_dist=True)


def latest(folder: Path) -> dict[str, Any] | None:
    """The place of the newest whole checkpoint, None without one."""
    path = folder / LATEST
    if not path.exists():
        return None
    place: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return place


def load(folder: Path, place: dict[str, Any], part: int | None = None) -> dict[str, Tensor]:
    """The tensors of the checkpoint at `place`, or those that one process had for its own."""
    target = str(folder / place["folder"] / ("" if part is None else f"part-{part}"))
    metadata: dict[str, Any] = FileSystemReader(target).read_metadata().state_dict_metadata
    tensors = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in metadata.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        load_checkpoint(tensors, checkpoint_id=target, no_dist=True)
    return tensors


def with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Select the tensors whose names start with a prefix, and strip the prefix."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
