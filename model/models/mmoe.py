"""The MMoE model (§4.1): multi-gate mixture of experts.

Tensor names end in their shape: B rows of the batch, F features, H width of the last hidden layer, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.layers.linear import PerDomainLinear
from star_ctr.model.layers.segments import Segment
from star_ctr.model.layers.stack import activate
from star_ctr.model.models.parallel_networks import ParallelNetworks


class MMoE(ParallelNetworks):
    """A multi-gate mixture of experts: each domain mixes the outputs of the experts with a domain-specific gate.

    Expert e returns h_e, the output of its last hidden layer. The logit of domain p is a domain-specific linear layer
    over sum_e softmax(z' G_p)_e h_e. Every row is computed with all experts, in prediction too.

    Args:
        settings: Provides the number of experts (`model.experts`; by default one per known domain), the widths of the
            hidden layers, the dropout and the activation.
        features: F.
        domains: The number of domains, including domain 0.
    """

    def __init__(self, settings: ModelSettings, features: int, domains: int) -> None:
        experts = settings.experts or domains - 1
        super().__init__(settings, features, domains, experts)
        self.gates = PerDomainLinear(features, experts, domains)

    def compute_hidden(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """Return the experts' last hidden layers, mixed by the gate of each row's domain, B x H."""
        h = x_BF
        for layer in self.hidden:
            h = self.dropout(activate(layer(h), self.activation))
        gate_BE = torch.softmax(self.gates(x_BF, segments), dim=1)
        return torch.einsum("be,ebh->bh", gate_BE, h)
