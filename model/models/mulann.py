"""MulANN (§4.1): Base with an adversarial domain discriminator.

Tensor names end in their shape: B rows of a batch, F features, H last hidden width, D domains, S segments.
"""

from __future__ import annotations

import torch
from torch import Tensor

from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.layers.linear import SharedLinear
from star_ctr.model.layers.segments import Segment, sum_over_ranks
from star_ctr.model.models.base import BaseFCN


class MulANN(BaseFCN):
    """MulANN: Base, and a discriminator that must not be able to tell the domain by the last hidden layer.

    The discriminator learns to name the domain; the network learns to hide it, by the same cross entropy with its
    gradient reversed. Both join the loss with the weight `model.adversarial`. Batches are mixed.

    A row's domain is hidden once the discriminator gives it no more than its share of the rows seen so far, and then
    the network is left alone. The authors' plain reversal has no such end: the network can raise the discriminator's
    cross entropy for ever by growing its hidden layer, and does (docs/compare.md).
    """

    rows_seen: Tensor

    def __init__(self, settings: ModelSettings, features: int, domains: int) -> None:
        super().__init__(settings, features)
        self.adversarial = settings.adversarial
        self.discriminator = SharedLinear(settings.layers[-1], domains)
        self.register_buffer("rows_seen", torch.zeros(domains))
        self._hidden_BH: Tensor | None = None

    def hidden(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """The output of the last hidden layer, B x H, kept for the discriminator."""
        hidden_BH = super().hidden(x_BF, segments)
        self._hidden_BH = hidden_BH if self.training else None
        return hidden_BH

    def auxiliary_loss(self, segments: list[Segment]) -> Tensor:
        """What the discriminator has to learn, less what the network has to hide, of the last forward's rows, summed.

        As a number, the excess of the discriminator's cross entropy over a guess by the shares, weighted.
        """
        hidden_BH = self._hidden_BH
        assert hidden_BH is not None, "only after a forward in training"
        sizes = torch.tensor([stop - start for _, start, stop in segments])
        domain_S = torch.tensor([p for p, _, _ in segments])
        domain_B = domain_S.repeat_interleave(sizes).to(hidden_BH.device)
        rows_D = torch.zeros_like(self.rows_seen).index_add_(0, domain_S.to(hidden_BH.device), sizes.to(self.rows_seen))
        self.rows_seen += sum_over_ranks(rows_D)
        guess_B = torch.log(self.rows_seen.sum() / self.rows_seen)[domain_B]
        entropy = torch.nn.functional.cross_entropy
        found_B = entropy(self.discriminator(hidden_BH.detach(), segments), domain_B, reduction="none")
        weight_HD, bias_D = self.discriminator.weight.detach(), self.discriminator.bias.detach()
        hidden_B = entropy(torch.addmm(bias_D, hidden_BH, weight_HD), domain_B, reduction="none")
        return self.adversarial * (found_B - torch.minimum(hidden_B, guess_B)).sum()
