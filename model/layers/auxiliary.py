"""The auxiliary network (§3.5, eq. 7).

Tensor names end in their shape: B rows of a batch, F features, E width of the domain embedding.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from star_ctr.model.layers.per_domain import repeat_per_domain
from star_ctr.model.layers.segments import Segment


class AuxiliaryNetwork(nn.Module):
    """The auxiliary network (§3.5): two layers over the domain's embedding and the pooled features z.

    The embeddings start at 0, so that every domain, one without examples too, starts alike.
    """

    def __init__(self, features: int, domains: int, domain_dim: int, width: int) -> None:
        super().__init__()
        self.domain = repeat_per_domain(domains, torch.zeros(domain_dim))
        self.hidden = nn.Linear(domain_dim + features, width)
        self.out = nn.Linear(width, 1)

    def forward(self, z_BF: Tensor, segments: Iterable[Segment]) -> Tensor:
        """The logit s_a of each row, B."""
        domain_BE = torch.cat([self.domain[p].expand(stop - start, -1) for p, start, stop in segments])
        hidden = torch.relu(self.hidden(torch.cat([domain_BE, z_BF], dim=1)))
        out: Tensor = self.out(hidden)
        return out.squeeze(1)
