"""Networks that are computed side by side for every row, and mixed per domain.

Tensor names end in their shape: B rows of a batch, F features, H last hidden width.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.layers.linear import ExpertLinear, PerDomainLinear
from star_ctr.model.layers.segments import Segment
from star_ctr.model.layers.stack import Dropout, PerDomainHead


class ParallelNetworks(PerDomainHead):
    """Networks side by side, of which each domain mixes its own last hidden layer; its own output layer follows.

    `networks` hidden stacks are computed for every row, in prediction too; `mixed` says how a domain mixes them.
    """

    def __init__(self, settings: ModelSettings, features: int, domains: int, networks: int) -> None:
        super().__init__()
        sizes = [features, *settings.layers]
        self.hidden = nn.ModuleList(ExpertLinear(networks, a, b) for a, b in pairwise(sizes))
        self.last = PerDomainLinear(sizes[-1], 1, domains)
        self.dropout = Dropout(settings.dropout)
        self.activation = settings.activation

    def mixed(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """What each row's domain makes of the networks, B x H."""
        raise NotImplementedError

    def forward(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """The logit of each row, B."""
        return self.logit(self.mixed(x_BF, segments), segments)
