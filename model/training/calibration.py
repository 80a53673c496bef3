"""Making a trained model true, with the weights frozen: the moments of its normalization, then each domain's level.

Moving moments lag behind embeddings that still move, and a small domain sees too few batches for any
momentum. Before evaluation and export each domain's moments are taken anew over training rows (eq. 4 stays as it
is; its moments become those of the final weights). Likewise the last steps of a training, each on one domain's
batch, leave the shared weights leaning towards the domains that came last; so each domain's output bias
b_p is set to where its predicted clicks are the actual ones of the same rows.

The next day is more like the last days than the first ones (counts only grow), so a row of the newest training
day weighs 1, and half as much for every `half_life` days that it is older.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from star_ctr.conf.contracts.encoded_row import OTHER_DOMAIN, Layout
from star_ctr.conf.errors import DataError
from star_ctr.model.data.batch_order import DataFile
from star_ctr.model.data.reader import read_files
from star_ctr.model.layers.partitioned_norm import NormStatistics, PartitionedNorm
from star_ctr.model.models.multi_domain import MultiDomainModel

_ROWS = 4096


def choose_sample_files(files: Sequence[DataFile], rows_a_domain: int) -> list[DataFile]:
    """The first files of each domain, up to `rows_a_domain` rows (rows lie in their files in random order)."""
    chosen: list[DataFile] = []
    rows: dict[int, int] = {}
    for file in files:
        if rows.get(file.domain, 0) < rows_a_domain:
            chosen.append(file)
            rows[file.domain] = rows.get(file.domain, 0) + file.rows
    return chosen


def _iter_parts(
    files: Sequence[DataFile], layout: Layout, half_life: float, device: torch.device
) -> Iterator[tuple[int, Tensor, Tensor, Tensor, Tensor]]:
    """(domain, ints, floats, label, weight) of all rows, a few thousand at a time."""
    newest = dt.date.fromisoformat(layout.ds) - dt.timedelta(days=1)
    ages: dict[str, float] = {}
    for file, rows in zip(files, read_files(files, layout, days=True), strict=True):
        assert rows.day is not None
        for day in set(rows.day) - ages.keys():
            ages[day] = (newest - dt.date.fromisoformat(day)).days
        weight = np.exp2([-ages[day] / half_life for day in rows.day])
        for start in range(0, len(rows), _ROWS):
            part = slice(start, start + _ROWS)
            ints, floats, label, weights = (
                torch.from_numpy(a[part].copy()) for a in (rows.ints, rows.floats, rows.label, weight)
            )
            yield file.domain, ints.to(device), floats.to(device), label.double(), weights


@torch.no_grad()
def recompute_norm_statistics(
    model: MultiDomainModel,
    files: Sequence[DataFile],
    layout: Layout,
    half_life: float,
    prior_rows: float,
    device: torch.device,
) -> dict[int, int]:
    """Set every domain's moments to those of z over its rows in `files`; returns the rows used.

    A domain's moments count as many more rows as `prior_rows` of all domains together: those of a dozen rows
    alone would blow up whatever did not vary among them. A domain without rows gets those of all, and so does batch
    normalization; layer normalization has none.
    """
    if not isinstance(model.norm, NormStatistics):
        return {}
    features = model.norm.mean.shape[1]
    used = torch.zeros(model.domains, dtype=torch.long)
    count = torch.zeros(model.domains, dtype=torch.float64)
    total = torch.zeros(model.domains, features, dtype=torch.float64)
    squares = torch.zeros(model.domains, features, dtype=torch.float64)
    for domain, ints, floats, _, weight in _iter_parts(files, layout, half_life, device):
        z = model.inputs(ints, floats).double().cpu()
        used[domain] += len(z)
        count[domain] += weight.sum()
        total[domain] += weight @ z
        squares[domain] += weight @ z.square()
    pooled_mean = total.sum(0) / count.sum()
    pooled_square = squares.sum(0) / count.sum()
    rows = {p: n for p, n in enumerate(used.tolist()) if n}
    if not isinstance(model.norm, PartitionedNorm):
        model.norm.mean[0], model.norm.var[0] = pooled_mean, (pooled_square - pooled_mean.square()).clamp(min=0)
        return rows
    scale = (count + prior_rows).clamp(min=1e-9)[:, None]
    mean = (total + prior_rows * pooled_mean) / scale
    square = (squares + prior_rows * pooled_square) / scale
    empty = count == 0
    mean[empty], square[empty] = pooled_mean, pooled_square
    model.norm.mean.copy_(mean)
    model.norm.var.copy_((square - mean.square()).clamp(min=0))
    return rows


@torch.no_grad()
def calibrate_output_biases(
    model: MultiDomainModel, files: Sequence[DataFile], layout: Layout, half_life: float, device: torch.device
) -> dict[int, float]:
    """Move every domain's output bias by what makes its predicted clicks the actual ones; returns the moves.

    The move d of a domain maximises the likelihood of its rows less d^2 / 2: a domain of a dozen rows moves
    little, one of thousands goes where its rows say. A domain without rows moves as all rows together would, and so
    does the one bias of a network whose domains have none of their own.
    """
    assert not model.training
    found: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for domain, ints, floats, label, weight in _iter_parts(files, layout, half_life, device):
        logits = model(ints, floats, [(domain, 0, len(label))]).double().cpu()
        found.setdefault(domain, []).append((logits, label, weight))
    rows = {p: [torch.cat(x) for x in zip(*parts, strict=True)] for p, parts in found.items()}
    moves = {p: _solve_bias(*parts) for p, parts in rows.items()} if model.has_domain_biases else {}
    if OTHER_DOMAIN not in moves:
        moves[OTHER_DOMAIN] = _solve_bias(*(torch.cat(x) for x in zip(*rows.values(), strict=True)))
    for p, move in moves.items():
        model.level(p).add_(move)
    return moves


def _solve_bias(logits: Tensor, label: Tensor, weight: Tensor) -> float:
    """The d at which sum(w sigmoid(logits + d)) + d = sum(w label), by Newton's steps (the left side only rises)."""
    move, clicks = 0.0, float(weight @ label)
    for _ in range(50):
        p = torch.sigmoid(logits + move)
        step = (float(weight @ p) + move - clicks) / (float(weight @ (p * (1 - p))) + 1.0)
        if not math.isfinite(step):  # the bounds below would turn it into a step of 1
            bad = int((~torch.isfinite(logits)).sum())
            raise DataError(
                f"{bad:,} of {len(logits):,} training rows have a non-finite logit; "
                "lower trainer.optimizer.lr, or check numeric features for extreme values"
            )
        move -= max(-1.0, min(1.0, step))
        if abs(step) < 1e-10:
            break
    return move
