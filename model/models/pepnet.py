"""PEPNet (Chang et al., KDD 2023, doi 10.1145/3580305.3599884) with one task, the click.

Tensor names end in their shape: B rows of a batch, F features in, H features out, E width of the domain embedding.
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
    """PEPNet's gate: 2 s(W' relu(W x + b) + b'), between 0 and 2 and about 1 at the start."""

    def __init__(self, features: int, hidden: int, out: int) -> None:
        super().__init__()
        self.hidden, self.out = SharedLinear(features, hidden), SharedLinear(hidden, out)
        with torch.no_grad():
            self.out.weight.mul_(0.1)

    def forward(self, x_BF: Tensor) -> Tensor:
        """How much of each of the H values passes, B x H."""
        return 2 * torch.sigmoid(self.out(torch.relu(self.hidden(x_BF, [])), []))


class PEPNet(PerDomainHead):
    """PEPNet: EPNet scales z' by a gate of the domain, PPNet each hidden layer by a gate of the row's own ids.

    The personal prior is the embeddings of the row's categorical ids (`priors` of z', its first ones); the gates
    read the features beside it without sending a gradient back. There is one task, the click, so one tower, with each
    domain's own output layer.
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
        start = init_kaiming(sizes[-1], 1)
        with torch.no_grad():
            for weight in self.last.weight:
                weight.copy_(start)
        self.dropout, self.activation = Dropout(settings.dropout), settings.activation

    def forward(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """The logit of each row, B."""
        domain_BE = torch.cat([self.domain[p].expand(stop - start, -1) for p, start, stop in segments])
        own_BF = x_BF * self.domain_gate(torch.cat([domain_BE, x_BF.detach()], dim=1))
        of_row = torch.cat([x_BF[:, : self.priors], own_BF.detach()], dim=1)
        h = own_BF
        for layer, gate in zip(self.hidden, self.gates, strict=True):
            h = self.dropout(activate(layer(h, segments), self.activation)) * gate(of_row)
        return self.logit(h, segments)
