"""The multi-domain model: shared inputs, normalization, network, auxiliary network; with PN and the star FCN, STAR."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from star_ctr.conf.contracts.encoded_row import OTHER_DOMAIN, Layout
from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.embeddings.sharding import WHOLE
from star_ctr.model.embeddings.shared_inputs import SharedInputs
from star_ctr.model.layers.auxiliary import AuxiliaryNetwork
from star_ctr.model.layers.normalization import make_norm
from star_ctr.model.layers.partitioned_norm import NormStatistics
from star_ctr.model.layers.per_domain import copy_domain
from star_ctr.model.layers.segments import Segment, find_segments
from star_ctr.model.layers.star_fcn import StarFCN
from star_ctr.model.models.base import BaseFCN
from star_ctr.model.models.cross_stitch import CrossStitch
from star_ctr.model.models.mmoe import MMoE
from star_ctr.model.models.mulann import MulANN
from star_ctr.model.models.pepnet import PEPNet
from star_ctr.model.models.ple import PLE
from star_ctr.model.models.shared_bottom import SharedBottom


def make_network(
    settings: ModelSettings, features: int, domains: int, priors: int
) -> StarFCN | BaseFCN | SharedBottom | MMoE | CrossStitch | PLE | PEPNet:
    """The network that the settings name, over z' of so many features; the first `priors` are the ids' embeddings."""
    match settings.name:
        case "star":
            s = settings
            return StarFCN(features, s.layers, domains, s.dropout, s.activation, s.combine, s.domain_spread)
        case "base":
            return BaseFCN(settings, features)
        case "mulann":
            return MulANN(settings, features, domains)
        case "shared_bottom":
            return SharedBottom(settings, features, domains)
        case "mmoe":
            return MMoE(settings, features, domains)
        case "cross_stitch":
            return CrossStitch(settings, features, domains)
        case "ple":
            return PLE(settings, features, domains)
        case "pepnet":
            return PEPNet(settings, features, domains, priors)


class MultiDomainModel(nn.Module):
    """A model of the domains of a layout, and of domain 0 for any other.

    `part`: (rank, parts) where this process holds one of several parts of the embeddings (`sharding`).
    """

    def __init__(self, layout: Layout, settings: ModelSettings, part: tuple[int, int] = WHOLE) -> None:
        super().__init__()
        self.domains = len(layout.domains) + 1
        self.inputs = SharedInputs(layout, settings, part)
        features = self.inputs.features
        self.norm: nn.Module = make_norm(settings, features, self.domains)
        self.network: nn.Module = make_network(settings, features, self.domains, self.inputs.singles)
        self.aux = (
            AuxiliaryNetwork(features, self.domains, settings.domain_dim, settings.aux_width) if settings.aux else None
        )

    def forward(self, ints_BI: Tensor, floats_BN: Tensor, segments: list[Segment]) -> Tensor:
        """The logit s_m + s_a of each row (eq. 7 before the sigmoid), B; rows are sorted by domain."""
        z_BF = self.inputs(ints_BI, floats_BN)
        logit_B: Tensor = self.network(self.norm(z_BF, segments), segments)
        if self.aux is not None:
            logit_B = logit_B + self.aux(z_BF, segments)
        return logit_B

    @torch.no_grad()
    def predict(self, ints_BI: Tensor, floats_BN: Tensor, domain_B: Tensor) -> Tensor:
        """The predicted click rate of rows of any domains, in their order, with the moving moments."""
        assert not self.training
        order, segments = sort_by_domain(domain_B)
        score = torch.sigmoid(self(ints_BI[order], floats_BN[order], segments))
        return torch.empty_like(score).index_copy_(0, order, score)

    def auxiliary_loss(self, segments: list[Segment]) -> Tensor | None:
        """What the parts add to the loss of the batch just seen, summed over its rows; None for most models."""
        loss = self.inputs.auxiliary_loss()
        if isinstance(self.network, MulANN):
            adversarial = self.network.auxiliary_loss(segments)
            loss = adversarial if loss is None else loss + adversarial
        return loss

    @property
    def has_domain_biases(self) -> bool:
        """Whether each domain has an output bias of its own."""
        return not isinstance(self.network, BaseFCN)

    def level(self, p: int) -> nn.Parameter:
        """What adds to the logits of domain p: its output bias, which all share where levels are not their own."""
        level: nn.Parameter = self.network.level(p)  # type: ignore[operator]
        return level

    def lone_rows(self) -> dict[int, int]:
        """Rows that came alone in their batch and took the moving moments, by domain."""
        if not isinstance(self.norm, NormStatistics):
            return {}
        return {p: int(n) for p, n in enumerate(self.norm.lone_rows.tolist()) if n}

    def copy_domain(self, p: int, into: int = OTHER_DOMAIN) -> None:
        """Let domain p's network score rows of another (of unknown ones), where no domain starts as a shared one."""
        copy_domain(self.network, p, into)

    def fold_for_inference(self) -> MultiDomainModel:
        """The model as it predicts, with all that can be computed ahead of time (§4.4)."""
        served = copy.copy(self)
        served._modules = dict(self._modules)
        served.norm, served.network = self.norm.fold_for_inference(), self.network.fold_for_inference()  # type: ignore[operator]
        return served.eval()


def sort_by_domain(domain_B: Tensor) -> tuple[Tensor, list[Segment]]:
    """The stable order of rows by domain, and the segments of rows so ordered."""
    order = torch.argsort(domain_B, stable=True)
    return order, find_segments(domain_B[order].cpu().numpy())
