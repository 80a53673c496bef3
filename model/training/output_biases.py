"""Correct the output biases of domains for downsampling, and calibrate them on training rows (see `calibration`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from star_ctr.conf.contracts.domains import OTHER_DOMAIN
from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.errors import DataError
from star_ctr.model.data.batch_order import DataFile
from star_ctr.model.data.new_ids import NewIds
from star_ctr.model.models.multi_domain import MultiDomainModel
from star_ctr.model.training.calibration_sample import iter_sample

_Scored = tuple[Tensor, Tensor, Tensor]
"""Logits, labels and weights of n rows, each of shape (n,)."""


class BiasShifts(NamedTuple):
    """The shifts of output biases, in logits.

    Attributes:
        label: The shift by domain number.
        outcomes: The shift by outcome and domain number.
    """

    label: dict[int, float]
    outcomes: dict[str, dict[int, float]]


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
) -> BiasShifts:
    """Shift the output bias of each domain so that its predicted clicks equal its actual clicks.

    The shift d of a domain maximizes the log-likelihood of its rows minus d^2 / 2. The penalty keeps the shift of a
    domain with a dozen rows small, and hardly affects a domain with thousands of rows. If domain 0 (unknown
    domains) has no rows, its bias is shifted so that it predicts the clicks of all rows. So is the single bias of a
    network without per-domain output biases.

    The biases of the heads of further outcomes are shifted in the same way, on the rows whose outcome is known.

    Args:
        model: The model in evaluation mode; its output biases are changed in place.
        files: Files of training rows.
        layout: Layout of the encoded rows.
        half_life: Half-life of the weight of a row, in days before the newest training day.
        device: Device of the model.
        new_ids: The first day of each id, to mask new ids; None to mask none.

    Returns:
        The shifts.

    Raises:
        DataError: A logit is not finite.
    """
    assert not model.training
    label_rows: dict[int, list[_Scored]] = {}
    outcome_rows: dict[tuple[int, int], list[_Scored]] = {}
    is_other_missing = OTHER_DOMAIN not in {file.domain for file in files}
    has_more_biases = model.has_domain_biases or model.heads is not None
    for part in iter_sample(files, layout, half_life, device, new_ids, use_row_weights=True):
        scores_as_other = is_other_missing and has_more_biases and part.domain != OTHER_DOMAIN
        for p in (part.domain, OTHER_DOMAIN) if scores_as_other else (part.domain,):
            logit, outcome_logits = model.compute_logits(part.ints, part.floats, [(p, 0, len(part.label))])
            if p == part.domain or model.has_domain_biases:
                label_rows.setdefault(p, []).append((logit.double().cpu(), part.label, part.weight))
            if outcome_logits is None or part.outcomes is None:
                continue
            for k, outcome in enumerate(part.outcomes.T):
                known, found = ~torch.isnan(outcome), outcome_logits[:, k].double().cpu()
                outcome_rows.setdefault((k, p), []).append((found[known], outcome[known], part.weight[known]))
    rows = {p: _concat(parts) for p, parts in label_rows.items()}
    shifts = {p: _solve_bias(*parts) for p, parts in rows.items()} if model.has_domain_biases else {}
    if OTHER_DOMAIN not in shifts:
        shifts[OTHER_DOMAIN] = _solve_bias(*_concat(list(rows.values())))
    for p, shift in shifts.items():
        model.output_bias(p).add_(shift)
    outcome_shifts: dict[str, dict[int, float]] = {}
    for (k, p), parts in outcome_rows.items():
        shift = _solve_bias(*_concat(parts))
        model.head_bias(p)[k] += shift
        outcome_shifts.setdefault(layout.outcomes[k], {})[p] = shift
    return BiasShifts(shifts, outcome_shifts)


def _concat(parts: Sequence[_Scored]) -> _Scored:
    """Concatenate logits, labels and weights."""
    logits, labels, weights = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return logits, labels, weights


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
