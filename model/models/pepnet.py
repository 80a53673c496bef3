"""The PEPNet model (Chang et al., KDD 2023, doi 10.1145/3580305.3599884) with the click as its only task.

Tensor names end in their shape: B rows of the batch, F input features, H output features, E width of the domain
embedding, P input features of a hidden layer's gate.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.layers.linear import PerDomainLinear, SharedLinear, init_kaiming
from star_ctr.model.layers.per_domain import repeat_per_domain
from star_ctr.model.layers.segments import Segment
from star_ctr.model.layers.stack import Dropout, PerDomainHead, activate


class Gate(nn.Module):
    """The gate of PEPNet: 2 s(W' relu(W x + b) + b'), where s is the sigmoid.

    Its values are between 0 and 2, and start near 1.

    Args:
        features: F.
        hidden: Hidden width.
        out: H, the number of values that the gate scales.
    """

    def __init__(self, features: int, hidden: int, out: int) -> None:
        super().__init__()
        self.hidden, self.out = SharedLinear(features, hidden), SharedLinear(hidden, out)
        with torch.no_grad():
            self.out.weight.mul_(0.1)

    def forward(self, x_BF: Tensor) -> Tensor:
        """Return the factor of each of the H values, B x H."""
        return 2 * torch.sigmoid(self.out(torch.relu(self.hidden(x_BF, [])), []))


class PEPNet(PerDomainHead):
    """The network of PEPNet, with per-domain output layers.

    EPNet multiplies z' by a gate of the domain. PPNet multiplies the output of each hidden layer by a gate of the row's
    personal prior: the embeddings of its categorical ids. The gates also read the features, without sending a gradient
    back to them. Since the click is the only task, there is one tower.

    Args:
        settings: Provides the widths of the layers, gates and domain embedding, the dropout and the activation.
        features: F.
        domains: The number of domains, including domain 0.
        priors: The number of features of the personal prior. They are the first features of z'.
    """

    def __init__(self, settings: ModelSettings, features: int, domains: int, priors: int) -> None:
        super().__init__()
        self.priors = priors
        self.domain = repeat_per_domain(domains, torch.zeros(settings.domain_dim))
        self.domain_gate = Gate(settings.domain_dim + features, settings.gate_width, features)
        sizes = [features, *settings.layers]
        self.hidden = nn.ModuleList(SharedLinear(a, b) for a, b in pairwise(sizes))
        self.gates = nn.ModuleList(Gate(priors + features, settings.gate_width, width) for width in sizes[1:])
        self.last = PerDomainLinear(sizes[-1], 1, domains)
        initial_weight = init_kaiming(sizes[-1], 1)
        with torch.no_grad():
            for weight in self.last.weight:
                weight.copy_(initial_weight)
        self.dropout, self.activation = Dropout(settings.dropout), settings.activation

    def compute_hidden(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """Return the gated last hidden layer of each row, B x H; the rows must be sorted by domain."""
        domain_BE = torch.cat([self.domain[p].expand(stop - start, -1) for p, start, stop in segments])
        gated_BF = x_BF * self.domain_gate(torch.cat([domain_BE, x_BF.detach()], dim=1))
        gate_input_BP = torch.cat([x_BF[:, : self.priors], gated_BF.detach()], dim=1)
        h: Tensor = gated_BF
        for layer, gate in zip(self.hidden, self.gates, strict=True):
            h = self.dropout(activate(layer(h, segments), self.activation)) * gate(gate_input_BP)
        return h
