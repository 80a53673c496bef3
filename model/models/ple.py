"""PLE (Tang et al., RecSys 2020, doi 10.1145/3383313.3412236), which §2.2 cites as the successor of MMoE.

The domains of STAR take the place of tasks: there is one label, and each row belongs to one domain. Tensor names end in
their shape: B rows of a batch, F features in, H features out, D domains, S shared experts.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.layers.linear import ExpertLinear, PerDomainLinear, SharedLinear
from star_ctr.model.layers.segments import Segment
from star_ctr.model.layers.stack import Dropout, PerDomainHead, activate


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
