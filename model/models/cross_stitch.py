"""Cross-Stitch (§4.1): one network per domain, linearly mixed after each hidden layer.

Tensor names end in their shape: B rows of a batch, F features, H last hidden width, D domains.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.layers.segments import Segment
from star_ctr.model.layers.stack import activate
from star_ctr.model.models.parallel_networks import ParallelNetworks


class CrossStitch(ParallelNetworks):
    """Cross-Stitch: a network a domain, and after each hidden layer a unit that mixes all of their outputs linearly.

    After layer l domain p goes on with sum_k A_l[p, k] h_k. A starts at 0.9 for its own and shares the rest, as the
    units' authors start it; every row pays for all domains' networks.
    """

    def __init__(self, settings: ModelSettings, features: int, domains: int) -> None:
        super().__init__(settings, features, domains, domains)
        unit_DD = torch.full((domains, domains), 0.1 / max(domains - 1, 1)).fill_diagonal_(0.9 if domains > 1 else 1.0)
        self.units = nn.ParameterList(nn.Parameter(unit_DD.clone()) for _ in settings.layers)

    def mixed(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """The last hidden layer of the row's domain, stitched with the others all the way, B x H."""
        h = x_BF
        for layer, unit_DD in zip(self.hidden, self.units, strict=True):
            h_DBH = self.dropout(activate(layer(h), self.activation))
            h = torch.einsum("pk,kbh->pbh", unit_DD, h_DBH)
        return torch.cat([h[p, start:stop] for p, start, stop in segments])

    @torch.no_grad()
    def copy_domain(self, p: int, into: int) -> None:
        """The network of the domain `into` and its row of each unit become those of domain p."""
        for layer in self.hidden:
            layer.copy(p, into)  # type: ignore[operator]
        for unit_DD in self.units:
            unit_DD[into] = unit_DD[p]
