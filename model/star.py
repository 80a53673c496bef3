"""STAR (§3): shared inputs, partitioned normalization, star topology FCN, auxiliary network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from star_ctr.conf.layout import Layout
from star_ctr.conf.training import ModelSettings
from star_ctr.model.inputs import SharedInputs
from star_ctr.model.layers import AuxiliaryNetwork, PartitionedNorm, Segment, StarFCN


class Star(nn.Module):
    """The model of §3.2 for the domains of a layout, and domain 0 for any other (it stays the shared model)."""

    def __init__(self, layout: Layout, settings: ModelSettings) -> None:
        super().__init__()
        self.domains = len(layout.domains) + 1
        self.inputs = SharedInputs(layout, settings)
        features = self.inputs.features
        self.norm = PartitionedNorm(features, self.domains, settings.norm_momentum, settings.norm_eps)
        self.fcn = StarFCN(features, settings.layers, self.domains, settings.dropout, settings.activation)
        self.aux = (
            AuxiliaryNetwork(features, self.domains, settings.domain_dim, settings.aux_width) if settings.aux else None
        )

    def forward(self, ints_BI: Tensor, floats_BN: Tensor, segments: list[Segment]) -> Tensor:
        """The logit s_m + s_a of each row (eq. 7 before the sigmoid), B; rows are sorted by domain."""
        z_BF = self.inputs(ints_BI, floats_BN)
        logit_B: Tensor = self.fcn(self.norm(z_BF, segments), segments)
        if self.aux is not None:
            logit_B = logit_B + self.aux(z_BF, segments)
        return logit_B

    def predict(self, ints_BI: Tensor, floats_BN: Tensor, domain_B: Tensor) -> Tensor:
        """The predicted click rate of rows of any domains, in their order, with the moving moments."""
        assert not self.training
        order, segments = by_domain(domain_B)
        with torch.no_grad():
            score = torch.sigmoid(self(ints_BI[order], floats_BN[order], segments))
        return torch.empty_like(score).index_copy_(0, order, score)


def by_domain(domain_B: Tensor) -> tuple[Tensor, list[Segment]]:
    """The stable order of rows by domain, and the segments of rows so ordered."""
    order = torch.argsort(domain_B, stable=True)
    domains, counts = torch.unique_consecutive(domain_B[order], return_counts=True)
    segments, start = [], 0
    for domain, count in zip(domains.tolist(), counts.tolist(), strict=True):
        segments.append((int(domain), start, start + int(count)))
        start += int(count)
    return order, segments
