"""The MulANN model (§4.1): Base with an adversarial domain discriminator.

Tensor names end in their shape: B rows of the batch, F features, H width of the last hidden layer, D domains, S
segments.
"""

from __future__ import annotations

import torch
from torch import Tensor

from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.layers.linear import SharedLinear
from star_ctr.model.layers.segments import Segment, sum_over_ranks
from star_ctr.model.models.base import BaseFCN


class MulANN(BaseFCN):
    """The network of Base with a discriminator that predicts the domain from the last hidden layer.

    The discriminator minimizes the cross entropy of the domain, and the network maximizes it (gradient reversal). Both
    terms are added to the loss with the weight `model.adversarial`. Batches must contain rows of several domains
    (`trainer.data.batches=mixed`).

    The domain of a row counts as hidden if the discriminator's probability of it is at most the domain's share of all
    rows seen so far. The network then gets no adversarial gradient for the row. Plain gradient reversal, as proposed by
    the authors of MulANN, has no such limit. The network can then increase the cross entropy indefinitely by growing
    the outputs of its hidden layer, and it does (docs/compare.md).

    Args:
        settings: Provides `adversarial`, the widths of the hidden layers, the dropout and the activation.
        features: F.
        domains: D, including domain 0.
    """

    rows_seen: Tensor

    def __init__(self, settings: ModelSettings, features: int, domains: int) -> None:
        super().__init__(settings, features)
        self.adversarial = settings.adversarial
        self.discriminator = SharedLinear(settings.layers[-1], domains)
        self.register_buffer("rows_seen", torch.zeros(domains))
        self._hidden_BH: Tensor | None = None

    def compute_hidden(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """Return the output of the last hidden layer, B x H; in training, keep it for the discriminator."""
        hidden_BH = super().compute_hidden(x_BF, segments)
        self._hidden_BH = hidden_BH if self.training else None
        return hidden_BH

    def auxiliary_loss(self, segments: list[Segment]) -> Tensor:
        """Return the adversarial loss of the last forward pass in training, and update the domains' row counts.

        Args:
            segments: The segments of that batch.

        Returns:
            The weighted loss, summed over the rows: the discriminator's cross entropy minus the network's term. Its
            value is the amount by which the cross entropy exceeds that of a guess by the domains' shares.
        """
        hidden_BH = self._hidden_BH
        assert hidden_BH is not None, "call forward in training mode first"
        sizes = torch.tensor([stop - start for _, start, stop in segments])
        domain_S = torch.tensor([p for p, _, _ in segments])
        domain_B = domain_S.repeat_interleave(sizes).to(hidden_BH.device)
        rows_D = torch.zeros_like(self.rows_seen).index_add_(0, domain_S.to(hidden_BH.device), sizes.to(self.rows_seen))
        self.rows_seen += sum_over_ranks(rows_D)
        guess_B = torch.log(self.rows_seen.sum() / self.rows_seen)[domain_B]
        cross_entropy = torch.nn.functional.cross_entropy
        discriminator_B = cross_entropy(self.discriminator(hidden_BH.detach(), segments), domain_B, reduction="none")
        weight_HD, bias_D = self.discriminator.weight.detach(), self.discriminator.bias.detach()
        network_B = cross_entropy(torch.addmm(bias_D, hidden_BH, weight_HD), domain_B, reduction="none")
        return self.adversarial * (discriminator_B - torch.minimum(network_B, guess_B)).sum()
