"""Warm start: initialize a training run from the final state of an earlier run (§4.4).

For example, the model of the previous night continues with the rows of the next day:

- Embedding rows are matched by value. Known values keep their rows. New values start as in training from scratch.
- Domain-specific parameters are matched by domain name. A new domain starts as the shared model, or as a copy of the
  largest known domain if the network has no shared weights. Domains that no longer exist are left out.
- The heads of further outcomes continue if the outcomes are the same. Otherwise, they start as in training from
  scratch.
- None of this changes any prediction for the other domains, not even in the last bit.
- With `warm_start_state=keep`, the optimizer state and EMA continue. With `reset`, both start again, and training
  starts from the averaged weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel
from torch import Tensor

from star_ctr.conf.contracts.catalog import LAYOUT_FILE, RESULT_FILE
from star_ctr.conf.contracts.compatibility import check_model, check_split
from star_ctr.conf.contracts.domains import OTHER_DOMAIN
from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.contracts.stored import parse_stored
from star_ctr.conf.contracts.vocabulary import (
    Vocabulary,
    list_vocabulary_files,
    make_behaviour_vocabulary,
    read_vocabularies,
)
from star_ctr.conf.errors import UserError
from star_ctr.conf.files import open_folder
from star_ctr.conf.settings.model import ModelSettings
from star_ctr.conf.settings.trainer import TrainerSettings
from star_ctr.model.data.batch_order import count_rows_by_domain
from star_ctr.model.data.negative_downsampling import compute_log_rates, resolve_rates
from star_ctr.model.embeddings.shared_inputs import get_embedding_widths
from star_ctr.model.layers.partitioned_norm import PartitionedNorm
from star_ctr.model.layers.per_domain import PerDomain
from star_ctr.model.training import checkpoint
from star_ctr.model.training.ema import compute_averages
from star_ctr.model.training.row_mapping import EmbeddingRows, map_rows
from star_ctr.model.training.trainer import Trainer
from star_ctr.model.training.trainer_state import load_tensors


class _RecordedSettings(BaseModel):
    """The parts of a recorded configuration that a warm start reads; the other parts are ignored."""

    history: dict[str, Any]
    model: ModelSettings


class _EarlierRun(NamedTuple):
    """The warm-start run."""

    run_id: str
    folder: Path
    layout: Layout
    model: ModelSettings
    trainer: TrainerSettings
    vocabularies: dict[str, Vocabulary]
    progress: dict[str, Any]


def start_from_run(trainer: Trainer) -> dict[str, Any]:
    """Initialize a new trainer from the run in `job.start`.

    Args:
        trainer: A new trainer.

    Returns:
        What was loaded, for the record: the run, how the optimizer state was treated, the numbers of values by
        embedding table (kept, new and left out), and the domains that were added and left out.

    Raises:
        UserError: The run is not complete, or it has different features, a different encoding of numbers, or different
            settings of the model.
    """
    earlier = _load_earlier_run(trainer)
    keep_state = trainer.settings.optimizer.warm_start_state == "keep"
    widths = get_embedding_widths(earlier.layout, earlier.model)
    before = EmbeddingRows(earlier.layout.embeddings, widths, earlier.vocabularies)
    moved, values = map_rows(earlier.run_id, before, _read_vocabularies(trainer), trainer.model.inputs.tables)
    tensors = load_tensors(trainer, earlier.folder / "checkpoint", earlier.progress, moved)
    index = earlier.layout.domain_index
    names = trainer.job.layout.domains
    earlier_domains = [OTHER_DOMAIN, *(index.get_number(d) if d in index else None for d in names)]
    earlier_outcomes = earlier.progress["identity"].get("outcome_weights", {})
    origin = _map_names(trainer, earlier_domains, earlier_outcomes)
    _load_weights(trainer, tensors, origin, earlier_domains, earlier, keep_state)
    added = [p for p, q in enumerate(earlier_domains) if q is None]
    if added:
        _initialize_domains(trainer, added, earlier_domains, earlier)
    decay = earlier.trainer.optimizer.ema_decay
    trainer.ema.load_state_dict(checkpoint.strip_prefix("average/", tensors) if keep_state else {}, origin, decay)
    _adjust_biases(trainer, earlier)
    if keep_state:
        _load_optimizers(trainer, tensors, origin)
    return {
        "run_id": earlier.run_id,
        "optimizer": trainer.settings.optimizer.warm_start_state,
        "values": values,
        "domains_added": [trainer.domain_name(p) for p in added],
        "domains_left_out": [d for d in earlier.layout.domains if d not in names],
    }


def _load_earlier_run(trainer: Trainer) -> _EarlierRun:
    """Read the record, layout and vocabularies of the run in `job.start`, and check that the trainer can use them."""
    start = trainer.job.start
    assert start is not None
    folder = open_folder(start.folder)
    progress = checkpoint.find_latest(folder / "checkpoint")
    if not (folder / RESULT_FILE).exists():
        raise UserError(f"{folder}: no finished run to start from; train {start.run_id} again")
    record = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    settings = parse_stored(_RecordedSettings, record["settings"], folder / RESULT_FILE)
    if progress is None or progress["step"] != record["steps"]:
        raise UserError(
            f"{folder / 'checkpoint'}: the final checkpoint is missing or damaged; train {start.run_id} again"
        )
    layout = parse_stored(Layout, (folder / LAYOUT_FILE).read_text(encoding="utf-8"), folder / LAYOUT_FILE)
    check_split(start.run_id, layout, trainer.job.layout)
    check_model(start.run_id, settings.model, trainer.job.model)
    files = [str(f) for f in sorted((folder / "vocabularies").glob("*.parquet"))]
    if not files:
        raise UserError(
            f"{folder / 'vocabularies'}: the vocabularies are missing, so embeddings cannot be matched by value; "
            f"train {start.run_id} again"
        )
    vocabularies = read_vocabularies(files) | make_behaviour_vocabulary(list(settings.history))
    earlier = parse_stored(TrainerSettings, progress["identity"]["trainer"], folder / "checkpoint")
    return _EarlierRun(start.run_id, folder, layout, settings.model, earlier, vocabularies, progress)


def _read_vocabularies(trainer: Trainer) -> dict[str, Vocabulary]:
    """Read the vocabularies of the trainer's split."""
    job = trainer.job
    files = list_vocabulary_files(job.vocabularies, job.versions["vocabularies"], job.ds)
    history = list(_RecordedSettings.model_validate(job.settings).history)
    return read_vocabularies(files) | make_behaviour_vocabulary(history)


def _map_names(
    trainer: Trainer, earlier_domains: list[int | None], earlier_outcomes: Iterable[str]
) -> dict[str, str | None]:
    """Return the earlier name of each tensor of the model; None for parameters of a new domain and of new heads."""
    names: dict[str, str | None] = {name: name for name in trainer.model.state_dict()}
    for path, module in trainer.model.named_modules():
        if isinstance(module, PerDomain):
            names |= {f"{path}.{p}": None if q is None else f"{path}.{q}" for p, q in enumerate(earlier_domains)}
    if sorted(trainer.job.outcome_weights) != sorted(earlier_outcomes):
        names |= {name: None for name in names if name.startswith("heads.")}
    # Which state a domain of PLE uses is determined at the end of training.
    names |= {name: None for name in names if name == "network.states"}
    return names


def _load_weights(
    trainer: Trainer,
    tensors: dict[str, Tensor],
    origin: dict[str, str | None],
    earlier_domains: list[int | None],
    earlier: _EarlierRun,
    keep_state: bool,
) -> None:
    """Load the earlier weights, or their EMA if the optimizer state is reset, because the EMA was evaluated.

    Args:
        trainer: The trainer.
        tensors: Tensors of the earlier checkpoint, with embedding rows already moved.
        origin: The result of `_map_names`.
        earlier_domains: For each domain number, the earlier number; None for a new domain.
        earlier: The earlier run.
        keep_state: Whether the optimizer state is kept.

    Raises:
        UserError: The shape of a tensor depends on the number of domains, which has changed.
    """
    weights = dict(trainer.model.state_dict())
    earlier_weights = checkpoint.strip_prefix("model/", tensors)
    if not keep_state and (decay := earlier.trainer.optimizer.ema_decay):
        earlier_weights |= compute_averages(earlier_weights, checkpoint.strip_prefix("average/", tensors), decay)
    is_partitioned = isinstance(trainer.model.norm, PartitionedNorm)
    for name, source in origin.items():
        if source is None:
            continue
        if is_partitioned and name in ("norm.mean", "norm.var", "norm.steps"):
            pairs = [(p, q) for p, q in enumerate(earlier_domains) if q is not None]
            rows, earlier_rows = (list(x) for x in zip(*pairs, strict=True))
            weights[name] = weights[name].index_copy(
                0, torch.tensor(rows, device=trainer.device), earlier_weights[name][earlier_rows]
            )
        elif (
            name != "norm.single_row_batches"
        ):  # this counter starts at 0, because the record reports it by training run
            tensor = earlier_weights.get(source)
            if tensor is None or tensor.shape != weights[name].shape:
                raise UserError(
                    f"{earlier.run_id}: training cannot start from this run, because the shape of {name} depends on "
                    f"the number of domains: {len(earlier.layout.domains)} -> {len(trainer.job.layout.domains)}"
                )
            weights[name] = tensor
    trainer.model.load_state_dict(weights)


@torch.no_grad()
def _initialize_domains(
    trainer: Trainer, added: list[int], earlier_domains: list[int | None], earlier: _EarlierRun
) -> None:
    """Initialize the parameters of new domains.

    A new domain starts as the shared model. If the network has no shared weights, it starts as a copy of the largest
    known domain. Its normalization statistics are those of the rows of all known domains, until it has its own.
    """
    model = trainer.model
    earlier_rows = {int(p): n for p, n in earlier.progress["rows_by_domain"].items()}
    known = {p: earlier_rows[q] for p, q in enumerate(earlier_domains) if q is not None and earlier_rows.get(q)}
    norm = model.norm
    if isinstance(norm, PartitionedNorm) and (updated := {p: n for p, n in known.items() if norm.steps[p] > 0}):
        share = torch.tensor(list(updated.values()), dtype=torch.float64)[:, None] / sum(updated.values())
        mean, var = (t[list(updated)].double().cpu() for t in (norm.mean, norm.var))
        pooled = (share * mean).sum(0)
        norm.mean[added] = pooled.to(norm.mean)
        norm.var[added] = ((share * (var + mean.square())).sum(0) - pooled.square()).to(norm.var)
    largest = max(known, key=lambda p: (known[p], -p), default=OTHER_DOMAIN)
    for p in added:
        model.copy_domain(largest, p)
        for module in model.modules():
            for name, neutral in getattr(module, "neutral_values", {}).items():
                getattr(module, name)[p].fill_(neutral)


@torch.no_grad()
def _adjust_biases(trainer: Trainer, earlier: _EarlierRun) -> None:
    """Adjust the output biases and their EMA if `trainer.negatives` has changed: the odds in the kept rows differ."""
    rows, index = count_rows_by_domain(trainer.data.all_files), trainer.job.layout.domain_index
    negatives = earlier.trainer.negatives
    if isinstance(negatives, dict):
        negatives = {name: rate for name, rate in negatives.items() if name in index}
    before = compute_log_rates(resolve_rates(negatives, index), rows)
    now = compute_log_rates(trainer.data.rates, rows)
    averages = {parameter: trainer.ema.weights.get(name) for name, parameter in trainer.ema.parameters}
    for p in range(len(index)) if trainer.model.has_domain_biases else (OTHER_DOMAIN,):
        bias = trainer.model.output_bias(p)
        for value in (bias, averages.get(bias)):
            if value is not None and before[p] != now[p]:
                value.add_(before[p] - now[p])


def _load_optimizers(trainer: Trainer, tensors: dict[str, Tensor], origin: dict[str, str | None]) -> None:
    """Load the earlier optimizer state of all parameters that have one."""
    states: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            parameter, _, key = name.removeprefix("optimizer/").rpartition("/")
            states.setdefault(parameter, {})[key] = tensor
    parameters = dict(trainer.model.named_parameters())
    trainer.optimizers.load_state_dict(
        {f"{name}/{key}": t for name in parameters for key, t in states.get(origin[name] or "", {}).items()}
    )
