"""A training that begins where another one ended (§4.4): last night's model goes on with the next day.

Embeddings come over by value and what belongs to a domain by the domain's name: known values keep their rows, new ones
start as in any training; a new domain starts as the shared model, and one that is no more is left out. Nothing of that
changes a prediction for the domains that stay by a bit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from star_ctr.conf.contracts.catalog import RESULT
from star_ctr.conf.contracts.compatibility import check_model, check_split
from star_ctr.conf.contracts.encoded_row import FIRST_KNOWN, OTHER_DOMAIN, PADDING, UNKNOWN, Layout
from star_ctr.conf.contracts.vocabulary import list_vocabulary_files, read_vocabularies
from star_ctr.conf.errors import UserError
from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.embeddings.shared_inputs import get_embedding_widths
from star_ctr.model.embeddings.tables import compute_offsets
from star_ctr.model.layers.partitioned_norm import PartitionedNorm
from star_ctr.model.layers.per_domain import PerDomain
from star_ctr.model.training import checkpoint
from star_ctr.model.training.ema import compute_averages
from star_ctr.model.training.trainer import Trainer
from star_ctr.model.training.trainer_state import load_tensors


class _EarlierRun(NamedTuple):
    """The run that a training starts from."""

    run_id: str
    folder: Path
    layout: Layout
    model: ModelSettings
    vocabularies: dict[str, pa.Array]
    place: dict[str, Any]


def start_from_run(trainer: Trainer) -> dict[str, Any]:
    """Initialize a new trainer from the run in `job.start`; returns what was loaded, for the record.

    Raises:
        UserError: That run has different features, a different encoding of numbers, or different settings of the model.
    """
    earlier = _load_earlier_run(trainer)
    kept = trainer.settings.optimizer.warm_start_state == "keep"
    mine = _read_vocabularies(trainer)
    moved, values = _map_rows(earlier, mine, trainer)
    tensors = load_tensors(trainer, earlier.folder / "checkpoint", earlier.place, moved)
    theirs = [earlier.layout.domain_id(d) if d in earlier.layout.domains else None for d in trainer.job.layout.domains]
    domains = [OTHER_DOMAIN, *theirs]
    origin = _map_names(trainer, domains)
    _take_weights(trainer, tensors, origin, domains, earlier, kept)
    added = [p for p, before in enumerate(domains) if before is None]
    if added:
        _start_domains(trainer, added, domains, earlier)
    averaging = earlier.place["identity"]["trainer"]["optimizer"]["ema_decay"]
    trainer.ema.load_state_dict(checkpoint.strip_prefix("average/", tensors) if kept else {}, origin, averaging)
    if kept:
        _take_optimizers(trainer, tensors, origin)
    names = set(trainer.job.layout.domains)
    return {
        "run_id": earlier.run_id,
        "optimizer": trainer.settings.optimizer.warm_start_state,
        "values": values,
        "domains_added": [trainer.domain_name(p) for p in added],
        "domains_left_out": [d for d in earlier.layout.domains if d not in names],
    }


def _load_earlier_run(trainer: Trainer) -> _EarlierRun:
    start = trainer.job.start
    assert start is not None
    folder = Path(start.folder)
    place = checkpoint.find_latest(folder / "checkpoint")
    if not (folder / RESULT).exists():
        raise UserError(f"{folder}: no finished training to start from; train {start.run_id} again")
    record = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    settings = record["settings"]
    if place is None or place["step"] != record["steps"]:
        raise UserError(
            f"{folder / 'checkpoint'}: the final checkpoint is missing or damaged; train {start.run_id} again"
        )
    layout = Layout.model_validate_json((folder / "layout.json").read_text(encoding="utf-8"))
    check_split(start.run_id, layout, trainer.job.layout)
    model = ModelSettings(**settings["model"])
    check_model(start.run_id, model, trainer.job.model)
    files = [str(f) for f in sorted((folder / "vocabularies").glob("*.parquet"))]
    if not files:
        raise UserError(f"{folder}/vocabularies: not there, so that its ids have no meaning; train that run again")
    vocabularies = read_vocabularies(files, list(settings["history"]))
    return _EarlierRun(start.run_id, folder, layout, model, vocabularies, place)


def _read_vocabularies(trainer: Trainer) -> dict[str, pa.Array]:
    job = trainer.job
    files = list_vocabulary_files(job.vocabularies, job.versions["vocabularies"], job.ds)
    return read_vocabularies(files, list(job.settings["history"]))


def _map_rows(
    earlier: _EarlierRun, mine: dict[str, pa.Array], trainer: Trainer
) -> tuple[dict[int, Tensor], dict[str, dict[str, int]]]:
    """Where each row of the earlier storages goes (-1: nowhere), by width; and how many values that are, by table."""
    widths = get_embedding_widths(earlier.layout, earlier.model)
    offset, rows = compute_offsets(earlier.layout.embeddings, widths)
    tables = trainer.model.inputs.tables
    moved = {width: torch.full((n,), -1) for width, n in rows.items()}
    counts: dict[str, dict[str, int]] = {}
    for width in moved:
        moved[width][PADDING] = PADDING
    for name, size in earlier.layout.embeddings.items():
        if widths[name] != tables.widths[name]:
            raise UserError(
                f"{earlier.run_id}: training cannot start from this run, because its embeddings of {name} are "
                f"{widths[name]} wide and these {tables.widths[name]}"
            )
        ids = _map_ids(size, earlier.vocabularies.get(name), mine.get(name), tables.sizes[name])
        there = np.flatnonzero(ids >= UNKNOWN)
        moved[widths[name]][there + offset[name]] = torch.from_numpy(ids[there] + tables.offset[name])
        kept = int((ids >= FIRST_KNOWN).sum())
        counts[name] = {"kept": kept, "new": tables.sizes[name] - FIRST_KNOWN - kept}
        counts[name]["left_out"] = size - FIRST_KNOWN - kept
    return moved, counts


def _map_ids(size: int, theirs: pa.Array | None, mine: pa.Array | None, now: int) -> np.ndarray[Any, Any]:
    """The id that each earlier id of a table has now, -1 for none; tables without values (buckets) keep their ids."""
    ids = np.arange(size)
    if theirs is None or mine is None:
        ids[now:] = -1
        return ids
    found = pc.index_in(theirs, mine).fill_null(-1 - FIRST_KNOWN).to_numpy()
    ids[FIRST_KNOWN:] = found + FIRST_KNOWN
    return ids


def _map_names(trainer: Trainer, domains: list[int | None]) -> dict[str, str | None]:
    """The earlier name of each of the model's tensors; None for what belongs to a new domain."""
    names: dict[str, str | None] = {name: name for name in trainer.model.state_dict()}
    for path, module in trainer.model.named_modules():
        if isinstance(module, PerDomain):
            names |= {f"{path}.{p}": None if q is None else f"{path}.{q}" for p, q in enumerate(domains)}
    return names


def _take_weights(
    trainer: Trainer,
    tensors: dict[str, Tensor],
    origin: dict[str, str | None],
    domains: list[int | None],
    earlier: _EarlierRun,
    kept: bool,
) -> None:
    """The earlier weights, or where optimizers start anew their average, which is what was evaluated."""
    weights = dict(trainer.model.state_dict())
    theirs = checkpoint.strip_prefix("model/", tensors)
    if not kept and (decay := earlier.place["identity"]["trainer"]["optimizer"]["ema_decay"]):
        theirs |= compute_averages(theirs, checkpoint.strip_prefix("average/", tensors), decay)
    partitioned = isinstance(trainer.model.norm, PartitionedNorm)
    for name, before in origin.items():
        if before is None:
            continue
        if partitioned and name in ("norm.mean", "norm.var", "norm.steps"):
            rows = [(p, q) for p, q in enumerate(domains) if q is not None]
            mine, earlier_rows = (list(x) for x in zip(*rows, strict=True))
            weights[name] = weights[name].index_copy(
                0, torch.tensor(mine, device=trainer.device), theirs[name][earlier_rows]
            )
        elif name != "norm.lone_rows":  # of which the record of a training tells
            tensor = theirs.get(before)
            if tensor is None or tensor.shape != weights[name].shape:
                raise UserError(
                    f"{earlier.run_id}: training cannot start from this run, because the shape of {name} depends on "
                    f"the number of domains: {len(earlier.layout.domains)} -> {len(trainer.job.layout.domains)}"
                )
            weights[name] = tensor
    trainer.model.load_state_dict(weights)


@torch.no_grad()
def _start_domains(trainer: Trainer, added: list[int], domains: list[int | None], earlier: _EarlierRun) -> None:
    """New domains add nothing to the shared model; where there is no such thing, they start as the largest known one.

    Until they have moments of their own, theirs are those of all known rows.
    """
    model = trainer.model
    seen = {int(p): n for p, n in earlier.place["rows_by_domain"].items()}
    known = {p: seen[q] for p, q in enumerate(domains) if q is not None and seen.get(q)}
    norm = model.norm
    if isinstance(norm, PartitionedNorm) and (moved := {p: n for p, n in known.items() if norm.steps[p] > 0}):
        share = torch.tensor(list(moved.values()), dtype=torch.float64)[:, None] / sum(moved.values())
        mean, var = (t[list(moved)].double().cpu() for t in (norm.mean, norm.var))
        pooled = (share * mean).sum(0)
        norm.mean[added] = pooled.to(norm.mean)
        norm.var[added] = ((share * (var + mean.square())).sum(0) - pooled.square()).to(norm.var)
    largest = max(known, key=lambda p: (known[p], -p), default=OTHER_DOMAIN)
    for p in added:
        model.copy_domain(largest, p)
        for module in model.modules():
            for name, neutral in getattr(module, "neutral", {}).items():
                getattr(module, name)[p].fill_(neutral)


def _take_optimizers(trainer: Trainer, tensors: dict[str, Tensor], origin: dict[str, str | None]) -> None:
    of: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            parameter, _, key = name.removeprefix("optimizer/").rpartition("/")
            of.setdefault(parameter, {})[key] = tensor
    parameters = dict(trainer.model.named_parameters())
    trainer.optimizers.load_state_dict(
        {f"{name}/{key}": t for name in parameters for key, t in of.get(origin[name] or "", {}).items()}
    )
