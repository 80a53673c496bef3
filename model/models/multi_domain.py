"""The multi-domain CTR model: shared inputs, normalization, network and auxiliary network (§3.2).

With partitioned normalization and the star topology FCN, this is STAR. The other networks are those that STAR is
compared with: the models of §4.1, PLE and PEPNet.

Tensor names end in their shape: B rows of the batch, I integers of an encoded row, N numbers of an encoded row, F
features of z, H width of the last hidden layer, K further outcomes.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from star_ctr.conf.contracts.domains import OTHER_DOMAIN
from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.embeddings.sharding import WHOLE_PART
from star_ctr.model.embeddings.shared_inputs import SharedInputs
from star_ctr.model.layers.auxiliary import AuxiliaryNetwork
from star_ctr.model.layers.calibration_map import CalibrationMap
from star_ctr.model.layers.normalization import make_norm
from star_ctr.model.layers.partitioned_norm import NormStatistics, PartitionedNorm
from star_ctr.model.layers.per_domain import PerDomain, copy_domain
from star_ctr.model.layers.segments import Segment, find_segments
from star_ctr.model.layers.star_fcn import StarFCN, StarLinear
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
    """Create the network that `model.name` names.

    Args:
        settings: The settings of the model.
        features: The number of features of z'.
        domains: The number of domains, including domain 0.
        priors: The number of features that embed the row's categorical ids. They are the first features of z'.

    Returns:
        A network that computes the logit s_m of each row from z'.
    """
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
    """A CTR model for the domains of a layout, and domain 0 for all unknown domains.

    Further outcomes (`label.also`) are predicted by heads: a star layer on the last hidden layer, with one output per
    outcome. The heads are the same for every kind of network. The auxiliary network affects only the label.

    Args:
        layout: The layout of the encoded rows.
        settings: The settings of the model.
        part: (rank, parts): the part of the embedding rows that this process holds, see `sharding`.
        outcomes: The number of further outcomes with a head, K.
    """

    def __init__(
        self, layout: Layout, settings: ModelSettings, part: tuple[int, int] = WHOLE_PART, outcomes: int = 0
    ) -> None:
        super().__init__()
        self.domains = len(layout.domain_index)
        self.inputs = SharedInputs(layout, settings, part)
        features = self.inputs.features
        self.norm: nn.Module = make_norm(settings, features, self.domains)
        self.network: nn.Module = make_network(settings, features, self.domains, self.inputs.singles)
        self.aux = (
            AuxiliaryNetwork(features, self.domains, settings.domain_dim, settings.aux_width) if settings.aux else None
        )
        self.heads: nn.Module | None = None
        if outcomes:
            self.heads = StarLinear([features, *settings.layers][-1], outcomes, self.domains, settings.combine)
        self.calibration_map: CalibrationMap | None = None
        """Calibration on the scores of earlier nights, set after training; it affects predictions, not the loss."""

    def forward(self, ints_BI: Tensor, floats_BN: Tensor, segments: list[Segment]) -> Tensor:
        """Compute the logits of a batch.

        Args:
            ints_BI: The integers of the encoded rows, sorted by domain.
            floats_BN: The numbers of the encoded rows, in the same order.
            segments: The rows of each domain.

        Returns:
            s_m + s_a of each row (eq. 7 before the sigmoid), B; s_m alone if `model.aux` is off.
        """
        logit_B, _ = self._compute(ints_BI, floats_BN, segments)
        return logit_B

    def compute_logits(
        self, ints_BI: Tensor, floats_BN: Tensor, segments: list[Segment]
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the logits of the label and of the further outcomes.

        Args:
            ints_BI: As for `forward`.
            floats_BN: As for `forward`.
            segments: As for `forward`.

        Returns:
            The result of `forward`, B; and the logits of the outcomes, B x K, or None without outcomes.
        """
        logit_B, hidden_BH = self._compute(ints_BI, floats_BN, segments)
        return logit_B, None if self.heads is None else self.heads(hidden_BH, segments)

    def _compute(self, ints_BI: Tensor, floats_BN: Tensor, segments: list[Segment]) -> tuple[Tensor, Tensor]:
        """Return the logit of each row, B, and the output of the last hidden layer, B x H."""
        z_BF = self.inputs(ints_BI, floats_BN)
        hidden_BH: Tensor = self.network.compute_hidden(self.norm(z_BF, segments), segments)  # type: ignore[operator]
        logit_B: Tensor = self.network.compute_logit(hidden_BH, segments)  # type: ignore[operator]
        if self.aux is not None:
            logit_B = logit_B + self.aux(z_BF, segments)
        return logit_B, hidden_BH

    @torch.no_grad()
    def predict(self, ints_BI: Tensor, floats_BN: Tensor, domain_B: Tensor) -> Tensor:
        """Predict the CTR of rows (eq. 7), with the running statistics of the normalization and the calibration map.

        The model must be in evaluation mode.

        Args:
            ints_BI: The integers of the encoded rows, in any order.
            floats_BN: The numbers of the encoded rows.
            domain_B: The domain numbers of the rows.

        Returns:
            The predicted CTR of each row, B.
        """
        return self.predict_all(ints_BI, floats_BN, domain_B)[0]

    @torch.no_grad()
    def predict_all(self, ints_BI: Tensor, floats_BN: Tensor, domain_B: Tensor) -> tuple[Tensor, Tensor | None]:
        """Predict the CTR of rows as `predict` does, and the probabilities of their further outcomes.

        Args:
            ints_BI: As for `predict`.
            floats_BN: As for `predict`.
            domain_B: As for `predict`.

        Returns:
            The predicted CTR of each row, B; and the probability of each outcome, B x K, or None without outcomes.
        """
        assert not self.training
        order, segments = sort_by_domain(domain_B)
        logit, outcomes = self.compute_logits(ints_BI[order], floats_BN[order], segments)
        if self.calibration_map is not None:
            logit = self.calibration_map(logit, domain_B[order])

        def restore_order(sorted_logit: Tensor) -> Tensor:
            score = torch.sigmoid(sorted_logit)
            return torch.empty_like(score).index_copy_(0, order, score)

        return restore_order(logit), None if outcomes is None else restore_order(outcomes)

    def auxiliary_loss(self, segments: list[Segment]) -> Tensor | None:
        """Return the additional loss terms of the last forward pass in training, summed over its rows.

        Only DIEN pooling and MulANN have additional terms.

        Args:
            segments: The segments of that batch.

        Returns:
            The sum, or None if the model has no additional terms.
        """
        loss = self.inputs.auxiliary_loss()
        if isinstance(self.network, MulANN):
            adversarial = self.network.auxiliary_loss(segments)
            loss = adversarial if loss is None else loss + adversarial
        return loss

    @property
    def has_domain_biases(self) -> bool:
        """Whether each domain has a separate output bias."""
        return not isinstance(self.network, BaseFCN)

    def output_bias(self, p: int) -> nn.Parameter:
        """Return the output bias of domain `p`; all domains share one if `has_domain_biases` is False."""
        bias: nn.Parameter = self.network.output_bias(p)  # type: ignore[operator]
        return bias

    def head_bias(self, p: int) -> nn.Parameter:
        """Return the output biases of the further outcomes in domain `p`, K."""
        bias: nn.Parameter = self.heads.bias_p[p]  # type: ignore[union-attr,index,assignment]
        return bias

    def single_row_batches(self) -> dict[int, int]:
        """Return how many rows were the only row of their domain in a batch, by domain number.

        The normalization used its running statistics for these rows.

        Returns:
            The counts that are not 0. Batch normalization has one count, for domain 0; layer normalization has none.
        """
        if not isinstance(self.norm, NormStatistics):
            return {}
        return {p: int(n) for p, n in enumerate(self.norm.single_row_batches.tolist()) if n}

    def copy_domain(self, source: int, target: int = OTHER_DOMAIN) -> None:
        """Copy the network of a trained domain to a domain without training rows.

        Has no effect on networks in which every domain starts as the shared model (STAR), or that have no
        domain-specific parameters (Base, MulANN).

        Args:
            source: The number of the trained domain.
            target: The number of the other domain; by default domain 0, which scores unknown domains.
        """
        copy_domain(self.network, source, target)

    @torch.no_grad()
    def treat_as_unknown(self, p: int) -> None:
        """Copy all parameters and statistics of domain 0 (unknown domains) to domain `p`.

        Args:
            p: The number of a domain without training rows.
        """
        for module in self.modules():
            if isinstance(module, PerDomain):
                module[p].copy_(module[OTHER_DOMAIN])
        copy_domain(self.network, OTHER_DOMAIN, p)
        if isinstance(self.norm, PartitionedNorm):
            self.norm.mean[p], self.norm.var[p] = self.norm.mean[OTHER_DOMAIN], self.norm.var[OTHER_DOMAIN]

    def fold_for_inference(self) -> MultiDomainModel:
        """Return the model for inference, with everything computed that can be computed ahead of time (§4.4)."""
        served = copy.copy(self)
        served._modules = dict(self._modules)
        served.norm, served.network = self.norm.fold_for_inference(), self.network.fold_for_inference()  # type: ignore[operator]
        served.heads = None if self.heads is None else self.heads.fold_for_inference()  # type: ignore[operator]
        return served.eval()


def sort_by_domain(domain_B: Tensor) -> tuple[Tensor, list[Segment]]:
    """Sort rows by domain.

    Args:
        domain_B: The domain number of each row.

    Returns:
        The indices that sort the rows (stable), B, and the segments of the sorted rows.
    """
    order = torch.argsort(domain_B, stable=True)
    return order, find_segments(domain_B[order].cpu().numpy())
