"""Calibration of a trained model with frozen weights: normalization statistics, then output biases by domain.

1. `recompute_norm_statistics` computes the normalization statistics of each domain from training rows with the final
   weights. The running statistics of training lag behind embeddings that still change, and a small domain has too few
   batches for any momentum. Eq. 4 does not change, only the values of E_p and Var_p.
2. `correct_biases_for_downsampling` adds log(rate) to the output bias of each domain if negatives were downsampled.
3. `calibrate_output_biases` shifts the output bias b_p of each domain so that its predicted clicks equal the actual
   clicks on the same rows. Each of the last training steps is on a batch of one domain, so the shared weights end up
   biased toward the domains of these steps.

The next day resembles recent days more than early ones, because counts only grow. A row of the newest training day
therefore has weight 1, and the weight halves with every `half_life` days of age. For the output biases, it is
multiplied by the row's own weight, as the loss is. The normalization statistics ignore the row's own weight, just as
batch statistics do in training.

The steps run before evaluation and export. They cost two more reads of a sample of the training rows.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from star_ctr.conf.contracts.domains import OTHER_DOMAIN
from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.trainer import CalibrationSettings
from star_ctr.model.data.batch_order import DataFile, count_rows_by_domain
from star_ctr.model.data.negative_downsampling import compute_log_rates
from star_ctr.model.data.new_ids import NewIds
from star_ctr.model.data.reader import read_files
from star_ctr.model.data.training_files import TrainingFiles
from star_ctr.model.layers.partitioned_norm import NormStatistics, PartitionedNorm
from star_ctr.model.models.multi_domain import MultiDomainModel

_ROWS = 4096
"""Rows per forward pass."""


def calibrate(
    model: MultiDomainModel,
    data: TrainingFiles,
    layout: Layout,
    settings: CalibrationSettings,
    device: torch.device,
) -> tuple[dict[int, int], dict[int, float]]:
    """Recompute the normalization statistics of a trained model, and calibrate its output biases.

    Args:
        model: The model in evaluation mode; it is changed in place.
        data: The training files.
        layout: Layout of the encoded rows.
        settings: Settings of the calibration.
        device: Device of the model.

    Returns:
        The number of rows used for the normalization statistics, and the shift of the output bias, by domain.

    Raises:
        DataError: A logit is not finite.
    """
    rows: dict[int, int] = {}
    shifts: dict[int, float] = {}
    size, half_life, new_ids = settings.norm_statistics_rows, settings.half_life, data.new_ids
    if size:
        # The weights were trained on downsampled rows, so the normalization statistics must come from them, too.
        sample, prior = choose_sample_files(data.files, size), settings.norm_statistics_prior
        rows = recompute_norm_statistics(model, sample, layout, half_life, prior, device, new_ids)
    if min(data.rates.values()) < 1:
        log_rates = compute_log_rates(data.rates, count_rows_by_domain(data.all_files))
        correct_biases_for_downsampling(model, log_rates)
    if size and settings.output_biases:
        sample = choose_sample_files(data.all_files, size)
        shifts = calibrate_output_biases(model, sample, layout, half_life, device, new_ids)
    return rows, shifts


def choose_sample_files(files: Sequence[DataFile], rows_per_domain: int) -> list[DataFile]:
    """Return the first files of each domain that together have at least `rows_per_domain` rows.

    Rows are stored in random order, so the first files are a sample of the domain. A domain with fewer rows contributes
    all of its files.
    """
    chosen: list[DataFile] = []
    rows: dict[int, int] = {}
    for file in files:
        if rows.get(file.domain, 0) < rows_per_domain:
            chosen.append(file)
            rows[file.domain] = rows.get(file.domain, 0) + file.rows
    return chosen


def _iter_parts(
    files: Sequence[DataFile],
    layout: Layout,
    half_life: float,
    device: torch.device,
    new_ids: NewIds | None,
    use_row_weights: bool = False,
) -> Iterator[tuple[int, Tensor, Tensor, Tensor, Tensor]]:
    """Iterate over all rows of the files in parts of up to `_ROWS` rows.

    Yields:
        The domain, integers, floats, labels and weights of the rows. Integers and floats are on `device`; labels and
        weights are float64 on the CPU.
    """
    newest = dt.date.fromisoformat(layout.ds).toordinal() - 1
    for file, rows in zip(files, read_files(files, layout, days=True), strict=True):
        if new_ids is not None:
            rows = new_ids.mask(rows)
        weight = np.exp2((rows.number_days() - newest) / half_life)
        if use_row_weights and rows.weight is not None:
            weight = weight * rows.weight
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
    new_ids: NewIds | None = None,
) -> dict[int, int]:
    """Set the normalization statistics of each domain to the weighted mean and variance of z over its rows (eq. 4).

    The statistics of a domain also count `prior_rows` rows with the statistics of all domains. Without them, the
    variance over a few rows could be close to 0, which would blow up features that did not vary in these rows. A domain
    without rows gets the statistics of all domains. So does batch normalization. Layer normalization has no statistics.

    Args:
        model: The model; its normalization is changed in place.
        files: Files of training rows.
        layout: Layout of the encoded rows.
        half_life: Half-life of the weight of a row, in days before the newest training day.
        prior_rows: Weight of the statistics of all domains, in rows.
        device: Device of the model.
        new_ids: The first day of each id, to mask new ids; None to mask none.

    Returns:
        The number of rows used, by domain; empty for layer normalization.
    """
    if not isinstance(model.norm, NormStatistics):
        return {}
    features = model.norm.mean.shape[1]
    used = torch.zeros(model.domains, dtype=torch.long)
    count = torch.zeros(model.domains, dtype=torch.float64)
    total = torch.zeros(model.domains, features, dtype=torch.float64)
    squares = torch.zeros(model.domains, features, dtype=torch.float64)
    for domain, ints, floats, _, weight in _iter_parts(files, layout, half_life, device, new_ids):
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
def correct_biases_for_downsampling(model: MultiDomainModel, log_rates: Mapping[int, float]) -> None:
    """Add log(rate) to the output bias of each domain, because training kept only this share of the negatives.

    Args:
        model: The model; its output biases are changed in place.
        log_rates: The logarithm of the share, by domain number; equal for all domains if they share an output bias.
    """
    for p in range(model.domains) if model.has_domain_biases else (OTHER_DOMAIN,):
        model.output_bias(p).add_(log_rates[p])


@torch.no_grad()
def calibrate_output_biases(
    model: MultiDomainModel,
    files: Sequence[DataFile],
    layout: Layout,
    half_life: float,
    device: torch.device,
    new_ids: NewIds | None = None,
) -> dict[int, float]:
    """Shift the output bias of each domain so that its predicted clicks equal its actual clicks.

    The shift d of a domain maximizes the log-likelihood of its rows minus d^2 / 2. The penalty keeps the shift of a
    domain with a dozen rows small, and hardly affects a domain with thousands of rows. If domain 0 (unknown
    domains) has no rows, its bias is shifted so that it predicts the clicks of all rows. So is the single bias of a
    network without per-domain output biases.

    Args:
        model: The model in evaluation mode; its output biases are changed in place.
        files: Files of training rows.
        layout: Layout of the encoded rows.
        half_life: Half-life of the weight of a row, in days before the newest training day.
        device: Device of the model.
        new_ids: The first day of each id, to mask new ids; None to mask none.

    Returns:
        The shift of each bias in logits, by domain.

    Raises:
        DataError: A logit is not finite.
    """
    assert not model.training
    logits_by_domain: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}
    is_other_missing = model.has_domain_biases and OTHER_DOMAIN not in {file.domain for file in files}
    for domain, ints, floats, label, weight in _iter_parts(
        files, layout, half_life, device, new_ids, use_row_weights=True
    ):
        for p in (domain, OTHER_DOMAIN) if is_other_missing else (domain,):
            logits = model(ints, floats, [(p, 0, len(label))]).double().cpu()
            logits_by_domain.setdefault(p, []).append((logits, label, weight))
    rows = {p: [torch.cat(x) for x in zip(*parts, strict=True)] for p, parts in logits_by_domain.items()}
    shifts = {p: _solve_bias(*parts) for p, parts in rows.items()} if model.has_domain_biases else {}
    if OTHER_DOMAIN not in shifts:
        shifts[OTHER_DOMAIN] = _solve_bias(*(torch.cat(x) for x in zip(*rows.values(), strict=True)))
    for p, shift in shifts.items():
        model.output_bias(p).add_(shift)
    return shifts


def _solve_bias(logits: Tensor, label: Tensor, weight: Tensor) -> float:
    """Solve sum(w * sigmoid(logits + d)) + d = sum(w * label) for the shift d.

    The left side increases with d. The equation is solved with Newton's method, with steps of at most 1.

    Args:
        logits: Logits of the rows, shape (n,).
        label: Labels of the rows, shape (n,).
        weight: Weights of the rows, shape (n,).

    Returns:
        The shift in logits.

    Raises:
        DataError: A logit is not finite.
    """
    shift, clicks = 0.0, float(weight @ label)
    for _ in range(50):
        p = torch.sigmoid(logits + shift)
        step = (float(weight @ p) + shift - clicks) / (float(weight @ (p * (1 - p))) + 1.0)
        if not math.isfinite(step):  # the bounds below would turn it into a step of 1
            bad = int((~torch.isfinite(logits)).sum())
            raise DataError(
                f"{bad:,} of {len(logits):,} training rows have a non-finite logit; "
                "lower trainer.optimizer.lr, or check numeric features for extreme values"
            )
        shift -= max(-1.0, min(1.0, step))
        if abs(step) < 1e-10:
            break
    return shift
