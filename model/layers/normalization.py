"""Batch and layer normalization of the pooled features z, the alternatives to partitioned normalization (§4.3.2).

Tensor names end in their shape: B rows of the batch, F features.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.layers.partitioned_norm import FoldedNorm, NormStatistics, PartitionedNorm, _fold_statistics
from star_ctr.model.layers.segments import Segment


class BatchNorm(NormStatistics):
    """Batch normalization (eq. 1 and 2): one set of statistics, one scale and one bias for the rows of all domains."""

    def __init__(self, features: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__(features, 1, momentum, eps)
        self.gamma = nn.Parameter(torch.ones(features))
        self.beta = nn.Parameter(torch.zeros(features))

    def forward(self, z_BF: Tensor, segments: Iterable[Segment]) -> Tensor:
        """Return the normalized rows z', B x F; all rows of the batch are one group, whatever their domains."""
        return self.gamma * self.standardize(z_BF, 0) + self.beta

    def fold_for_inference(self) -> FoldedNorm:
        """Return eq. 2 as one scale and one shift."""
        return _fold_statistics(self, self.gamma[None], self.beta[None])


class LayerNorm(nn.LayerNorm):
    """Layer normalization: each row is normalized with the mean and variance of its features."""

    def forward(self, z_BF: Tensor, segments: Iterable[Segment] = ()) -> Tensor:
        """Return the normalized rows z', B x F."""
        return super().forward(z_BF)

    def fold_for_inference(self) -> LayerNorm:
        """Return the layer itself: its statistics depend on the row, so nothing can be computed ahead of time."""
        return self


def make_norm(settings: ModelSettings, features: int, domains: int) -> PartitionedNorm | BatchNorm | LayerNorm:
    """Create the normalization that `model.norm` names."""
    match settings.norm:
        case "pn":
            return PartitionedNorm(features, domains, settings.norm_momentum, settings.norm_eps)
        case "bn":
            return BatchNorm(features, settings.norm_momentum, settings.norm_eps)
        case "ln":
            return LayerNorm(features, eps=settings.norm_eps)
