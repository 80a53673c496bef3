"""MMoE (§4.1): multi-gate mixture of experts.

Tensor names end in their shape: B rows of a batch, F features, H last hidden width, E experts.
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
    """Multi-gate mixture of experts: each domain mixes the experts' outputs by a gate of its own over z'.

    Expert e ends in h_e; domain p's logit is its own linear layer over sum_e softmax(z' G_p)_e h_e. There are as many
    experts as domains unless `model.experts` says otherwise, and every row pays for all of them.
    """

    def __init__(self, settings: ModelSettings, features: int, domains: int) -> None:
        experts = settings.experts or domains - 1
        super().__init__(settings, features, domains, experts)
        self.gates = PerDomainLinear(features, experts, domains)

    def mixed(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """The experts' last hidden layers, by the gate of the row's domain, B x H."""
        h = x_BF
        for layer in self.hidden:
            h = self.dropout(activate(layer(h), self.activation))
        gate_BE = torch.softmax(self.gates(x_BF, segments), dim=1)
        return torch.einsum("be,ebh->bh", gate_BE, h)
