"""Saving and loading the state of a trainer as a checkpoint.

Another process can resume from the checkpoint. The number of processes may differ. On the CPU, a training run that was
interrupted gives the same bits as one that was not.
"""

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
    """Return the weights, optimizer state and EMA state of a trainer, by name."""
    tensors = {f"model/{n}": t for n, t in trainer.model.state_dict().items()}
    tensors |= {f"optimizer/{n}": t for n, t in trainer.optimizers.state_dict().items()}
    tensors |= {f"average/{n}": t for n, t in trainer.ema.state_dict().items()}
    return tensors


def save(trainer: Trainer, recorders: Iterable[Recorder] = ()) -> None:
    """Write a checkpoint of a trainer, unless an intact one of its step exists; all processes must call this.

    The first process writes the tensors, because they are equal in all processes. With sharded tables, each process
    writes its part of the tables.

    Args:
        trainer: The trainer.
        recorders: Recorders whose state to save.
    """
    trainer.wait_for_processes()
    rank, (_, parts) = get_rank_and_size()[0], trainer.model.inputs.tables.part
    if rank > 0 and parts == 1:
        return
    progress: dict[str, Any] = {
        "identity": trainer.job.identity(),
        "run_id": trainer.job.run_id,
        "step": trainer.step,
        "rows": trainer.rows,
        "rows_by_domain": {str(k): v for k, v in trainer.rows_by_domain.items()},
        "recorders": {r.name: r.state_dict() for r in recorders},
        "parts": parts,
        "processes": get_rank_and_size()[1],
        "threads": trainer.threads,
        "environments": trainer.environments,
    }
    folder = trainer.job.path / "checkpoint"
    latest = checkpoint.find_latest(folder)
    if (
        latest
        and all(latest.get(k) == progress[k] for k in ("identity", "step"))
        and checkpoint.is_intact(folder, latest)
    ):
        return
    tensors = _collect_tensors(trainer)
    part_tensors = {n: t for n, t in tensors.items() if _parse_width(n, t)} if parts > 1 else None
    common = {n: t for n, t in tensors.items() if n not in (part_tensors or {})}
    checkpoint.save(folder, common, progress, trainer.settings.checkpoint.keep, rank, part_tensors)


def _load_newest(trainer: Trainer, folder: Path, must: bool) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Load the newest checkpoint of this job that all processes can read.

    Args:
        trainer: The trainer.
        folder: Folder of the checkpoints.
        must: Raise an error if there is a checkpoint of another job.

    Returns:
        The contents of `progress.json` and the tensors; None if there is no such checkpoint.

    Raises:
        UserError: `must` is set and a checkpoint belongs to another job.
    """
    checkpoints = []
    for progress in checkpoint.list_checkpoints(folder):
        if changed := list_changes(progress.get("identity", {}), trainer.job.identity()):
            if must:
                raise UserError(
                    f"{folder}: the checkpoint belongs to a training run with other inputs or settings; changed since: "
                    f"{'; '.join(changed)}. Set it back, or allow a new start with "
                    "trainer.checkpoint.resume=auto (train without --resume)"
                )
            continue
        checkpoints.append(progress)
    while True:
        # All processes must resume from the same step, even if some of them cannot read the files of a checkpoint.
        step = -all_max(-(checkpoints[0]["step"] if checkpoints else -1))
        if step < 0:
            return None
        newest = next((p for p in checkpoints if p["step"] == step), None)
        tensors = _load_if_intact(trainer, folder, newest) if newest else None
        if all_max(int(tensors is None)) == 0:
            assert newest is not None
            assert tensors is not None
            return newest, tensors
        checkpoints = [p for p in checkpoints if p["step"] < step]


def _load_if_intact(trainer: Trainer, folder: Path, progress: dict[str, Any]) -> dict[str, Tensor] | None:
    """Load a checkpoint; returns None and warns if it is damaged."""
    try:
        return load_tensors(trainer, folder, progress)
    except checkpoint.DamagedCheckpointError as error:
        if get_rank_and_size()[0] == 0:
            warnings.warn(f"{error}. Training resumes from an earlier checkpoint", stacklevel=2)
        return None


_TABLE = re.compile(r"/inputs\.tables\.storages\.(\d+)(/|$)")


def _parse_width(name: str, tensor: Tensor) -> int | None:
    """Return the embedding width of a tensor with one row per embedding: weights, Adam moments and EMA state.

    Returns None for other tensors.
    """
    found = _TABLE.search(name)
    return int(found[1]) if found and tensor.dim() > 0 else None


def load_tensors(
    trainer: Trainer, folder: Path, progress: dict[str, Any], moved: dict[int, Tensor] | None = None
) -> dict[str, Tensor]:
    """Load the tensors of a checkpoint that was written by any number of processes.

    Args:
        trainer: The trainer; determines the device and the rows of embedding tables that this process holds.
        folder: Folder of the checkpoints.
        progress: Contents of the checkpoint's `progress.json`.
        moved: For each embedding width, the new row index of each row of the checkpoint's storage (see
            `sharding.reshard`). By default, rows are not moved. Rows of the trainer to which no row is moved keep the
            trainer's weights, and have no Adam moments. Their EMA starts from these weights.

    Returns:
        The tensors by name. Tensors of embedding tables have the rows that this process holds.

    Raises:
        DamagedCheckpointError: A file of the checkpoint is missing or differs from what was written.
    """
    tensors, tables = checkpoint.load(folder, progress), trainer.model.inputs.tables
    parts = progress["parts"]
    if parts == 1 and not tables.sharded and moved is None:
        return {name: t.to(trainer.device) for name, t in tensors.items()}
    local: dict[str, Tensor] = {}
    for part in range(parts):
        part_tensors = tensors if parts == 1 else checkpoint.load(folder, progress, part)
        for name, tensor in part_tensors.items():
            if (width := _parse_width(name, tensor)) is not None:
                if name not in local:
                    weights = tables.storages[str(width)].detach().cpu()
                    zeros = torch.zeros(len(weights), *tensor.shape[1:], dtype=tensor.dtype)
                    local[name] = weights.clone() if name.startswith("model/") else zeros
                reshard(tensor, (part, parts), local[name], tables.part, moved[width] if moved else None)
    return {name: t.to(trainer.device) for name, t in (tensors | local).items()}


def resume(trainer: Trainer, recorders: Iterable[Recorder] = (), must: bool = False) -> bool:
    """Restore a trainer from the newest checkpoint of its job, if there is one.

    A finished training run is restored at its last step, because calibration and export may not have been done.

    Args:
        trainer: A new trainer.
        recorders: Recorders whose state to restore.
        must: Raise an error if there is no checkpoint of the job.

    Returns:
        Whether the trainer was restored.

    Raises:
        UserError: `must` is set and there is no checkpoint, or there is one of a job with other inputs or settings. The
            error names the differences.
    """
    folder = trainer.job.path / "checkpoint"
    found = _load_newest(trainer, folder, must)
    if found is None:
        if must:
            raise UserError(f"{folder}: no checkpoint to resume from; train without --resume")
        return False
    progress, tensors = found
    # Keep the number of threads even if the number of cores differs, so that results are bit-identical.
    if not trainer.settings.threads and progress["processes"] == get_rank_and_size()[1]:
        trainer.use_threads(progress["threads"])
    trainer.model.load_state_dict(checkpoint.strip_prefix("model/", tensors))
    trainer.optimizers.load_state_dict(checkpoint.strip_prefix("optimizer/", tensors))
    trainer.ema.load_state_dict(checkpoint.strip_prefix("average/", tensors))
    trainer.step, trainer.rows = progress["step"], progress["rows"]
    environments, current = progress["environments"], trainer.describe_environment()
    is_same = {**environments[-1], "step": trainer.step} == current
    trainer.environments = environments if is_same else [*environments, current]
    trainer.rows_by_domain = {int(k): v for k, v in progress["rows_by_domain"].items()}
    for recorder in recorders:
        recorder.load_state_dict(progress["recorders"][recorder.name])
    return True
