"""The Cross-Stitch model (§4.1): one network per domain, linearly mixed after each hidden layer.

Tensor names end in their shape: B rows of the batch, F features, H width of a hidden layer, D domains.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.layers.segments import Segment
from star_ctr.model.layers.stack import activate
from star_ctr.model.models.parallel_networks import ParallelNetworks


class CrossStitch(ParallelNetworks):
    """The networks of Cross-Stitch, one per domain, with a cross-stitch unit after each hidden layer.

    The unit of layer l is a D x D matrix A_l. Domain p continues with sum_k A_l[p, k] h_k, where h_k is the output of
    layer l in the network of domain k. As proposed by the authors of Cross-Stitch, A_l is initialized with 0.9 on the
    diagonal, and the remaining 0.1 of each row is divided evenly among the other domains.

    Every row is computed with the networks of all domains, in prediction too.

    Args:
        settings: Provides the widths of the hidden layers, the dropout and the activation.
        features: F.
        domains: D, including domain 0.
    """

    def __init__(self, settings: ModelSettings, features: int, domains: int) -> None:
        super().__init__(settings, features, domains, domains)
        unit_DD = torch.full((domains, domains), 0.1 / max(domains - 1, 1)).fill_diagonal_(0.9 if domains > 1 else 1.0)
        self.units = nn.ParameterList(nn.Parameter(unit_DD.clone()) for _ in settings.layers)

    def compute_hidden(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """Return the stitched last hidden layer of each row's domain, B x H."""
        h = x_BF
        for layer, unit_DD in zip(self.hidden, self.units, strict=True):
            h_DBH = self.dropout(activate(layer(h), self.activation))
            h = torch.einsum("pk,kbh->pbh", unit_DD, h_DBH)
        return torch.cat([h[p, start:stop] for p, start, stop in segments])

    @torch.no_grad()
    def copy_domain(self, source: int, target: int) -> None:
        """Copy the mixture of domain `source` in the last unit to domain `target`.

        The hidden layers and the earlier units of domain `target` stay unchanged, because they also feed the networks
        of all other domains. The output layer is copied separately.
        """
        self.units[-1][target] = self.units[-1][source]
