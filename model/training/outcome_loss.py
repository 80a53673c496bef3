"""The loss of the further outcomes of impressions (`label.also`).

Tensor names end in their shape: B rows of the batch, K outcomes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.model.layers.segments import Segment


class OutcomeLoss:
    """The weighted cross entropy of the further outcomes, over the rows whose outcome is known.

    A row whose outcome is not known yet adds nothing, neither as positive nor as negative.

    If the negatives of the label are downsampled, each kept one is weighted by 1 / rate. Rows are sampled by label, not
    by outcome, so the logit of an outcome cannot be corrected after training, as the logit of the label is.

    Args:
        weights: Weight of each outcome, by name.
        layout: Layout of the encoded rows, with the order of the outcomes.
        rates: The share of the negatives that is kept, by domain number.
    """

    def __init__(self, weights: Mapping[str, float], layout: Layout, rates: Mapping[int, float]) -> None:
        self.weight_K = torch.tensor([weights[name] for name in layout.outcomes])
        self.rates = rates
        self._is_downsampled = min(rates.values(), default=1.0) < 1

    def __call__(
        self,
        logit_BK: Tensor,
        outcome_BK: Tensor,
        label_B: Tensor,
        weight_B: Tensor | None,
        segments: Iterable[Segment],
    ) -> Tensor:
        """Compute the loss of a batch.

        Args:
            logit_BK: The logits of the outcomes.
            outcome_BK: The outcomes: 1, 0, or NaN if not known yet.
            label_B: The labels.
            weight_B: The weights of the rows; None if all rows have the same weight.
            segments: The rows of each domain.

        Returns:
            The sum over rows and outcomes.
        """
        weight_BK = self.weight_K.to(logit_BK.device) * (~torch.isnan(outcome_BK))
        if weight_B is not None:
            weight_BK = weight_BK * weight_B[:, None]
        if self._is_downsampled:
            rate_B = torch.cat([label_B.new_full((stop - start,), self.rates[p]) for p, start, stop in segments])
            weight_BK = weight_BK * torch.where(label_B > 0, 1.0, 1.0 / rate_B)[:, None]
        target_BK = torch.nan_to_num(outcome_BK)
        return F.binary_cross_entropy_with_logits(logit_BK.float(), target_BK, weight_BK, reduction="sum")
