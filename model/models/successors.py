"""Multi-domain networks of today beside the paper's list: PLE, which §2.2 cites as MMoE's successor, and PEPNet.

PLE: Tang et al., RecSys 2020 (doi 10.1145/3383313.3412236). PEPNet: Chang et al., KDD 2023
(doi 10.1145/3580305.3599884). Both are written for domains as STAR has them: one label, and a row belongs to one
domain. Tensor names end in their shape: B rows, F features in, H out, D domains, S shared experts.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.layers.normalization import Segment, repeat_per_domain
from star_ctr.model.layers.star import Dropout, activate
from star_ctr.model.models.paper_baselines import (
    ExpertLinear,
    PerDomainHead,
    PerDomainLinear,
    SharedLinear,
    init_kaiming,
)


class Experts(nn.Module):
    """Some hidden layers of several networks side by side: B x F or E x B x F to E x B x H."""

    def __init__(self, settings: ModelSettings, sizes: list[int], networks: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ExpertLinear(networks, a, b) for a, b in pairwise(sizes))
        self.dropout, self.activation = Dropout(settings.dropout), settings.activation

    def forward(self, x: Tensor) -> Tensor:
        """The last of the layers' outputs, E x B x H."""
        for layer in self.layers:
            x = self.dropout(activate(layer(x), self.activation))
        return x


class PerDomainExpert(nn.Module):
    """Some hidden layers that each domain has for itself; only the row's own domain is computed."""

    def __init__(self, settings: ModelSettings, sizes: list[int], domains: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(PerDomainLinear(a, b, domains) for a, b in pairwise(sizes))
        self.dropout, self.activation = Dropout(settings.dropout), settings.activation

    def forward(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """The last of the layers' outputs, B x H."""
        for layer in self.layers:
            x_BF = self.dropout(activate(layer(x_BF, segments), self.activation))
        return x_BF


class Extraction(nn.Module):
    """An extraction layer of PLE before the last: every domain's state and the shared one go on.

    Domain p's state becomes its gate's mixture of its own expert and the shared ones; the shared state that of all
    experts. Every row pays for all domains, since the shared state hangs on all of them.
    """

    def __init__(self, settings: ModelSettings, sizes: list[int], domains: int, shared: int) -> None:
        super().__init__()
        self.own, self.shared = Experts(settings, sizes, domains), Experts(settings, sizes, shared)
        self.gates = ExpertLinear(domains, sizes[0], 1 + shared)
        self.shared_gate = SharedLinear(sizes[0], domains + shared)

    def forward(self, own_DBF: Tensor, shared_BF: Tensor) -> tuple[Tensor, Tensor]:
        """The states of all domains, D x B x H, and the shared one, B x H."""
        own_DBH, shared_SBH = self.own(own_DBF), self.shared(shared_BF)
        gate = torch.softmax(self.gates(own_DBF), dim=2)
        mixed_DBH = gate[:, :, :1] * own_DBH + torch.einsum("dbs,sbh->dbh", gate[:, :, 1:], shared_SBH)
        all_gate = torch.softmax(self.shared_gate(shared_BF, []), dim=1)
        return mixed_DBH, torch.einsum("be,ebh->bh", all_gate, torch.cat([own_DBH, shared_SBH]))

    def copy_domain(self, p: int, into: int) -> None:
        """The expert and the gate of the domain `into` become those of domain p."""
        for layer in (*self.own.layers, self.gates):
            layer.copy(p, into)


class PLE(PerDomainHead):
    """Progressive layered extraction: one expert a domain and `model.experts` shared ones (one if not given).

    The hidden layers are dealt evenly over `model.levels` extraction layers; in the last only the row's own domain and
    the shared experts are computed. Each domain's own output layer follows.
    """

    def __init__(self, settings: ModelSettings, features: int, domains: int) -> None:
        super().__init__()
        shared = settings.experts or 1
        widths = [list(map(int, part)) for part in np.array_split(settings.layers, settings.levels) if len(part)]
        starts = [features, *(part[-1] for part in widths)]
        *earlier, last = [[start, *part] for start, part in zip(starts, widths, strict=False)]
        self.earlier = nn.ModuleList(Extraction(settings, sizes, domains, shared) for sizes in earlier)
        self.own, self.shared = PerDomainExpert(settings, last, domains), Experts(settings, last, shared)
        self.gates = PerDomainLinear(last[0], 1 + shared, domains)
        self.last = PerDomainLinear(last[-1], 1, domains)

    def forward(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """The logit of each row, B."""
        own_BF = shared_BF = x_BF
        if self.earlier:
            own_DBF = x_BF.expand(len(self.last.weight), -1, -1)
            for layer in self.earlier:
                own_DBF, shared_BF = layer(own_DBF, shared_BF)
            own_BF = torch.cat([own_DBF[p, start:stop] for p, start, stop in segments])
        gate_BE = torch.softmax(self.gates(own_BF, segments), dim=1)
        mixed_BH = gate_BE[:, :1] * self.own(own_BF, segments)
        mixed_BH = mixed_BH + torch.einsum("bs,sbh->bh", gate_BE[:, 1:], self.shared(shared_BF))
        return self.logit(mixed_BH, segments)


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
