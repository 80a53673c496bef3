"""Where a training stands, as a checkpoint that another process goes on from, to the same bits on the CPU."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from star_ctr.conf.contracts.compatibility import list_changes
from star_ctr.conf.errors import UserError
from star_ctr.model.distributed.process_group import all_max, get_rank_and_size
from star_ctr.model.embeddings.sharding import reshard
from star_ctr.model.training import checkpoint
from star_ctr.model.training.callbacks.record import Recorder
from star_ctr.model.training.trainer import Trainer


def _collect_tensors(trainer: Trainer) -> dict[str, Tensor]:
    tensors = {f"model/{n}": t for n, t in trainer.model.state_dict().items()}
    tensors |= {f"optimizer/{n}": t for n, t in trainer.optimizers.state_dict().items()}
    tensors |= {f"average/{n}": t for n, t in trainer.ema.state_dict().items()}
    return tensors


def save(trainer: Trainer, recorders: Iterable[Recorder] = ()) -> None:
    """Write a checkpoint of where the run stands, unless there is one of just there.

    Of several processes, which stand alike, the first one does; of sharded tables each writes its part. All call this.
    """
    trainer.settle()
    rank, (_, parts) = get_rank_and_size()[0], trainer.model.inputs.tables.part
    if rank > 0 and parts == 1:
        return
    place: dict[str, Any] = {
        "identity": trainer.job.identity(),
        "run_id": trainer.job.run_id,
        "step": trainer.step,
        "rows": trainer.rows,
        "rows_by_domain": {str(k): v for k, v in trainer.rows_by_domain.items()},
        "recorders": {r.name: r.state_dict() for r in recorders},
        "parts": parts,
        "processes": get_rank_and_size()[1],
        "threads": trainer.threads,
        "worlds": trainer.worlds,
    }
    folder = trainer.job.path / "checkpoint"
    before = checkpoint.find_latest(folder)
    if before and all(before.get(k) == place[k] for k in ("identity", "step")) and checkpoint.is_intact(folder, before):
        return
    tensors = _collect_tensors(trainer)
    own = {n: t for n, t in tensors.items() if _parse_width(n, t)} if parts > 1 else None
    common = {n: t for n, t in tensors.items() if n not in (own or {})}
    checkpoint.save(folder, common, place, trainer.settings.checkpoint.keep, rank, own)


def _load_newest(trainer: Trainer, folder: Path, must: bool) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Load the newest checkpoint of this job that all processes can read; None if there is none."""
    found = []
    for place in checkpoint.list_checkpoints(folder):
        if changed := list_changes(place.get("identity", {}), trainer.job.identity()):
            if must:
                raise UserError(
                    f"{folder}: the checkpoint is of another training; changed since: {'; '.join(changed)}. "
                    "Set it back, or train without --resume"
                )
            continue
        found.append(place)
    while True:
        # All processes must resume from the same step, even if the files of one cannot be read by some of them.
        step = -all_max(-(found[0]["step"] if found else -1))
        if step < 0:
            return None
        newest = next((p for p in found if p["step"] == step), None)
        tensors = _load_if_intact(trainer, folder, newest) if newest else None
        if all_max(int(tensors is None)) == 0:
            assert newest is not None
            assert tensors is not None
            return newest, tensors
        found = [p for p in found if p["step"] < step]


def _load_if_intact(trainer: Trainer, folder: Path, place: dict[str, Any]) -> dict[str, Tensor] | None:
    """Load a checkpoint; None, with a warning, if it is damaged."""
    try:
        return load_tensors(trainer, folder, place)
    except checkpoint.DamagedCheckpointError as error:
        if get_rank_and_size()[0] == 0:
            warnings.warn(f"{error}. The training resumes from an earlier checkpoint", stacklevel=2)
        return None


_TABLE = re.compile(r"/inputs\.tables\.storages\.(\d+)(/|$)")


def _parse_width(name: str, tensor: Tensor) -> int | None:
    """Return the embedding width of a tensor with one row per embedding: weights, Adam moments and EMA state.

    Returns None for other tensors.
    """
    found = _TABLE.search(name)
    return int(found[1]) if found and tensor.dim() > 0 else None


def load_tensors(
    trainer: Trainer, folder: Path, place: dict[str, Any], moved: dict[int, Tensor] | None = None
) -> dict[str, Tensor]:
    """A checkpoint's tensors, of tables the rows that this process holds, whatever number of processes wrote it.

    `moved`: by width, the new index of each row of a storage (`sharding.reshard`). Rows without a source keep the
    trainer's weights, have no Adam moments, and their average starts from their weights.
    """
    tensors, tables = checkpoint.load(folder, place), trainer.model.inputs.tables
    parts = place["parts"]
    if parts == 1 and not tables.sharded and moved is None:
        return {name: t.to(trainer.device) for name, t in tensors.items()}
    mine: dict[str, Tensor] = {}
    for part in range(parts):
        theirs = tensors if parts == 1 else checkpoint.load(folder, place, part)
        for name, tensor in theirs.items():
            if (width := _parse_width(name, tensor)) is not None:
                if name not in mine:
                    fresh = tables.storages[str(width)].detach().cpu()
                    zeros = torch.zeros(len(fresh), *tensor.shape[1:], dtype=tensor.dtype)
                    mine[name] = fresh.clone() if name.startswith("model/") else zeros
                reshard(tensor, (part, parts), mine[name], tables.part, moved[width] if moved else None)
    return {name: t.to(trainer.device) for name, t in (tensors | mine).items()}


def resume(trainer: Trainer, recorders: Iterable[Recorder] = (), must: bool = False) -> bool:
    """Go on from the run's checkpoint, if there is one of the same job; returns whether there was.

    A training that came to its last step stands there again: what comes after it may not have been done. With `must` it
    is an error if there is no checkpoint, or one of another data set or configuration: `UserError` names what changed.
    """
    folder = trainer.job.path / "checkpoint"
    found = _load_newest(trainer, folder, must)
    if found is None:
        if must:
            raise UserError(f"{folder}: no checkpoint to resume from; train without --resume")
        return False
    place, tensors = found
    # Keep the number of threads even if the number of cores differs, so that results are bit-identical.
    if not trainer.settings.threads and place["processes"] == get_rank_and_size()[1]:
        trainer.use_threads(place["threads"])
    trainer.model.load_state_dict(checkpoint.strip_prefix("model/", tensors))
    trainer.optimizers.load_state_dict(checkpoint.strip_prefix("optimizer/", tensors))
    trainer.ema.load_state_dict(checkpoint.strip_prefix("average/", tensors))
    trainer.step, trainer.rows = place["step"], place["rows"]
    before, now = place["worlds"], trainer.describe_environment()
    same = {**before[-1], "step": trainer.step} == now
    trainer.worlds = before if same else [*before, now]
    trainer.rows_by_domain = {int(k): v for k, v in place["rows_by_domain"].items()}
    for recorder in recorders:
        recorder.load_state_dict(place["recorders"][recorder.name])
    return True
