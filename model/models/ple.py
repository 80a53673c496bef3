"""The PLE model (Tang et al., RecSys 2020, doi 10.1145/3383313.3412236; reference [36] of the paper).

PLE is the successor of MMoE. It is defined for several tasks. Here, the domains of STAR replace the tasks: there is one
label, and each row belongs to one domain.

Tensor names end in their shape: B rows of the batch, F input features, H output features, D domains, S shared experts,
E experts of one gate.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.layers.linear import ExpertLinear, PerDomainLinear, SharedLinear
from star_ctr.model.layers.segments import Segment
from star_ctr.model.layers.stack import Dropout, PerDomainHead, activate


class Experts(nn.Module):
    """The hidden layers of several parallel experts.

    Args:
        settings: Provides the dropout and the activation.
        sizes: The input width, followed by the width of each layer.
        networks: The number of experts.
    """

    def __init__(self, settings: ModelSettings, sizes: list[int], networks: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ExpertLinear(networks, a, b) for a, b in pairwise(sizes))
        self.dropout, self.activation = Dropout(settings.dropout), settings.activation

    def forward(self, x: Tensor) -> Tensor:
        """Compute the experts.

        Args:
            x: The inputs, B x F if all experts get the same input, otherwise experts x B x F.

        Returns:
            The output of the last layer, experts x B x H.
        """
        for layer in self.layers:
            x = self.dropout(activate(layer(x), self.activation))
        return x


class PerDomainExpert(nn.Module):
    """The hidden layers of one expert per domain; each row is computed with the expert of its domain only.

    Args:
        settings: Provides the dropout and the activation.
        sizes: The input width, followed by the width of each layer.
        domains: The number of domains, including domain 0.
    """

    def __init__(self, settings: ModelSettings, sizes: list[int], domains: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(PerDomainLinear(a, b, domains) for a, b in pairwise(sizes))
        self.dropout, self.activation = Dropout(settings.dropout), settings.activation

    def forward(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """Return the output of the last layer, B x H."""
        for layer in self.layers:
            x_BF = self.dropout(activate(layer(x_BF, segments), self.activation))
        return x_BF


class Extraction(nn.Module):
    """An extraction layer of PLE, except for the last one: it updates the state of each domain and the shared state.

    The new state of domain p is a gated mixture of the domain's expert and the shared experts. The new shared state is
    a gated mixture of all experts. Every row is computed with the experts of all domains, because the shared state
    depends on all of them.

    Args:
        settings: Provides the dropout and the activation.
        sizes: The input width, followed by the width of each layer.
        domains: D, including domain 0.
        shared: S.
    """

    def __init__(self, settings: ModelSettings, sizes: list[int], domains: int, shared: int) -> None:
        super().__init__()
        self.own, self.shared = Experts(settings, sizes, domains), Experts(settings, sizes, shared)
        self.gates = ExpertLinear(domains, sizes[0], 1 + shared)
        self.shared_gate = SharedLinear(sizes[0], domains + shared)

    def forward(self, domain_DBF: Tensor, shared_BF: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the new states.

        Args:
            domain_DBF: The state of each domain.
            shared_BF: The shared state.

        Returns:
            The new state of each domain, D x B x H, and the new shared state, B x H.
        """
        domain_DBH, shared_SBH = self.own(domain_DBF), self.shared(shared_BF)
        gate = torch.softmax(self.gates(domain_DBF), dim=2)
        mixed_DBH = gate[:, :, :1] * domain_DBH + torch.einsum("dbs,sbh->dbh", gate[:, :, 1:], shared_SBH)
        shared_gate_BE = torch.softmax(self.shared_gate(shared_BF, []), dim=1)
        return mixed_DBH, torch.einsum("be,ebh->bh", shared_gate_BE, torch.cat([domain_DBH, shared_SBH]))


class PLE(PerDomainHead):
    """The network of progressive layered extraction: one expert per domain, shared experts, and gates.

    The hidden layers are distributed evenly over `model.levels` extraction layers. The last extraction layer computes
    only the expert of the row's domain and the shared experts. A per-domain output layer follows.

    In the earlier extraction layers, the experts of all domains feed the shared state, so the networks of all domains
    depend on each of them. A domain that becomes a copy of another one therefore reads the state of that domain there.
    Its own experts and gates stay unchanged.

    Args:
        settings: Provides the number of shared experts (`model.experts`; 1 by default), the number of extraction layers
            (`model.levels`), the widths of the hidden layers, the dropout and the activation.
        features: F.
        domains: D, including domain 0.
    """

    states: Tensor
    """The domain whose state in the earlier extraction layers each domain reads: itself, or the domain it copies, D."""

    def __init__(self, settings: ModelSettings, features: int, domains: int) -> None:
        super().__init__()
        shared = settings.experts or 1
        widths = [list(map(int, part)) for part in np.array_split(settings.layers, settings.levels) if len(part)]
        input_widths = [features, *(part[-1] for part in widths)]
        *earlier, last = [[width, *part] for width, part in zip(input_widths, widths, strict=False)]
        if earlier:
            self.register_buffer("states", torch.arange(domains))
        self.earlier = nn.ModuleList(Extraction(settings, sizes, domains, shared) for sizes in earlier)
        self.own, self.shared = PerDomainExpert(settings, last, domains), Experts(settings, last, shared)
        self.gates = PerDomainLinear(last[0], 1 + shared, domains)
        self.last = PerDomainLinear(last[-1], 1, domains)

    def compute_hidden(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """Return the gated mixture of the last experts, B x H; the rows must be sorted by domain."""
        domain_BF = shared_BF = x_BF
        if self.earlier:
            domain_DBF = x_BF.expand(len(self.last.weight), -1, -1)
            for layer in self.earlier:
                domain_DBF, shared_BF = layer(domain_DBF, shared_BF)
            states = self.states.tolist()
            domain_BF = torch.cat([domain_DBF[states[p], start:stop] for p, start, stop in segments])
        gate_BE = torch.softmax(self.gates(domain_BF, segments), dim=1)
        own_BH: Tensor = gate_BE[:, :1] * self.own(domain_BF, segments)
        return own_BH + torch.einsum("bs,sbh->bh", gate_BE[:, 1:], self.shared(shared_BF))

    def copy_domain(self, source: int, target: int) -> None:
        """Let domain `target` read the state of domain `source`; the last experts and gates are copied separately."""
        if self.earlier:
            self.states[target] = self.states[source]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Models that earlier versions wrote do not contain this tensor.
        if self.earlier:
            state_dict.setdefault(f"{prefix}states", torch.arange(len(self.last.weight)))
        super()._load_from_state_dict(state_dict, prefix, *args)
