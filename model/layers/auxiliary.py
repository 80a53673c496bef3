"""The auxiliary network (§3.5, eq. 7).

Tensor names end in their shape: B rows of the batch, F features of z, E width of the domain embedding.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from star_ctr.model.layers.per_domain import repeat_per_domain
from star_ctr.model.layers.segments import Segment


class AuxiliaryNetwork(nn.Module):
    """The auxiliary network (§3.5): two layers over the domain embedding and the pooled features z.

    The domain embeddings are initialized to 0, so that all domains start the same, also those without training rows.

    Args:
        features: F.
        domains: The number of domains, including domain 0.
        domain_dim: E.
        width: Hidden width.
    """

    def __init__(self, features: int, domains: int, domain_dim: int, width: int) -> None:
        super().__init__()
        self.domain = repeat_per_domain(domains, torch.zeros(domain_dim))
        self.hidden = nn.Linear(domain_dim + features, width)
        self.out = nn.Linear(width, 1)

    def forward(self, z_BF: Tensor, segments: Iterable[Segment]) -> Tensor:
        """Return s_a of eq. 7, the logit of each row, B."""
        domain_BE = torch.cat([self.domain[p].expand(stop - start, -1) for p, start, stop in segments])
        hidden = torch.relu(self.hidden(torch.cat([domain_BE, z_BF], dim=1)))
        out: Tensor = self.out(hidden)
        return out.squeeze(1)
