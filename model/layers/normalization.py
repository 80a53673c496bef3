"""Batch and layer normalization of the pooled features z, which partitioned normalization is compared with.

Tensor names end in their shape: B rows of a batch, F features.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.layers.partitioned_norm import FoldedNorm, NormStatistics, PartitionedNorm, _fold
from star_ctr.model.layers.segments import Segment


class BatchNorm(NormStatistics):
    """Batch normalization: one set of moments, scale and bias for the rows of all domains."""

    def __init__(self, features: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__(features, 1, momentum, eps)
        self.gamma = nn.Parameter(torch.ones(features))
        self.beta = nn.Parameter(torch.zeros(features))

    def forward(self, z_BF: Tensor, segments: Iterable[Segment]) -> Tensor:
        """The normalised rows z'; a batch is one group, whichever domains it holds."""
        return self.gamma * self.standardize(z_BF, 0) + self.beta

    def fold_for_inference(self) -> FoldedNorm:
        """One scale and one shift."""
        return _fold(self, self.gamma[None], self.beta[None])


class LayerNorm(nn.LayerNorm):
    """Layer normalization: each row by its own moments over its features."""

    def forward(self, z_BF: Tensor, segments: Iterable[Segment] = ()) -> Tensor:
        """The normalised rows z'."""
        return super().forward(z_BF)

    def fold_for_inference(self) -> LayerNorm:
        """Itself: there is nothing to compute ahead."""
        return self


def make_norm(settings: ModelSettings, features: int, domains: int) -> PartitionedNorm | BatchNorm | LayerNorm:
    """The normalization that the settings name."""
    match settings.norm:
        case "pn":
            return PartitionedNorm(features, domains, settings.norm_momentum, settings.norm_eps)
        case "bn":
            return BatchNorm(features, settings.norm_momentum, settings.norm_eps)
        case "ln":
            return LayerNorm(features, eps=settings.norm_eps)
