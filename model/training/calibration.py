"""Calibration of a trained model with frozen weights: normalization statistics, then output biases by domain.

1. `recompute_norm_statistics` computes the normalization statistics of each domain from training rows with the final
   weights. The running statistics of training lag behind embeddings that still change, and a small domain has too few
   batches for any momentum. Eq. 4 does not change, only the values of E_p and Var_p.
2. `correct_biases_for_downsampling` adds log(rate) to the output bias of each domain if negatives were downsampled.
3. `calibrate_output_biases` shifts the output bias b_p of each domain so that its predicted clicks equal the actual
   clicks on the same rows. Each of the last training steps is on a batch of one domain, so the shared weights end up
   biased toward the domains of these steps. The biases of the heads of further outcomes are shifted in the same way.

The next day resembles recent days more than early ones, because counts only grow. A row of the newest training day
therefore has weight 1, and the weight halves with every `half_life` days of age. For the output biases, it is
multiplied by the row's own weight, as the loss is. The normalization statistics ignore the row's own weight, just as
batch statistics do in training.

The steps run before evaluation and export. They cost two more reads of a sample of the training rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.settings.trainer import CalibrationSettings
from star_ctr.model.data.batch_order import DataFile, count_rows_by_domain
from star_ctr.model.data.negative_downsampling import compute_log_rates
from star_ctr.model.data.new_ids import NewIds
from star_ctr.model.data.training_files import TrainingFiles
from star_ctr.model.layers.partitioned_norm import NormStatistics, PartitionedNorm
from star_ctr.model.models.multi_domain import MultiDomainModel
from star_ctr.model.training.calibration_sample import choose_sample_files, iter_sample
from star_ctr.model.training.output_biases import (
    BiasShifts,
    calibrate_output_biases,
    correct_biases_for_downsampling,
)


def calibrate(
    model: MultiDomainModel,
    data: TrainingFiles,
    layout: Layout,
    settings: CalibrationSettings,
    device: torch.device,
    copied_domain: int | None = None,
) -> tuple[dict[int, int], BiasShifts]:
    """Recompute the normalization statistics of a trained model, and calibrate its output biases.

    Args:
        model: The model in evaluation mode; it is changed in place.
        data: The training files.
        layout: Layout of the encoded rows.
        settings: Settings of the calibration.
        device: Device of the model.
        copied_domain: The domain whose network domain 0 gets, if it has no training rows; None to keep its own.

    Returns:
        The number of rows used for the normalization statistics by domain, and the shifts of the output biases.

    Raises:
        DataError: A logit is not finite.
    """
    rows: dict[int, int] = {}
    shifts = BiasShifts({}, {})
    size, half_life, new_ids = settings.norm_statistics_rows, settings.half_life, data.new_ids
    if size:
        # The weights were trained on downsampled rows, so the normalization statistics must come from them, too.
        sample, prior = choose_sample_files(data.files, size), settings.norm_statistics_prior
        rows = recompute_norm_statistics(model, sample, layout, half_life, prior, device, new_ids)
    if min(data.rates.values()) < 1:
        log_rates = compute_log_rates(data.rates, count_rows_by_domain(data.all_files))
        correct_biases_for_downsampling(model, log_rates)
    if copied_domain is not None:
        # With the bias of the copied domain, corrected for its own rate.
        model.copy_domain(copied_domain)
    if size and settings.output_biases:
        sample = choose_sample_files(data.all_files, size)
        shifts = calibrate_output_biases(model, sample, layout, half_life, device, new_ids)
    return rows, shifts


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
    for part in iter_sample(files, layout, half_life, device, new_ids):
        domain, weight, z = part.domain, part.weight, model.inputs(part.ints, part.floats).double().cpu()
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
