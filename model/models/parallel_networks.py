"""Base class of models that compute several networks for every row and mix them per domain.

Tensor names end in their shape: B rows of the batch, F features, H width of the last hidden layer.
"""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.layers.linear import ExpertLinear, PerDomainLinear
from star_ctr.model.layers.stack import Dropout, PerDomainHead


class ParallelNetworks(PerDomainHead):
    """Parallel networks whose outputs are mixed per domain, followed by a per-domain output layer.

    All networks are computed for every row, in prediction too. Subclasses define the mixture in `compute_hidden`.

    Args:
        settings: Provides the widths of the hidden layers, the dropout and the activation.
        features: F.
        domains: The number of domains, including domain 0.
        networks: The number of networks.
    """

    def __init__(self, settings: ModelSettings, features: int, domains: int, networks: int) -> None:
        super().__init__()
        sizes = [features, *settings.layers]
        self.hidden = nn.ModuleList(ExpertLinear(networks, a, b) for a, b in pairwise(sizes))
        self.last = PerDomainLinear(sizes[-1], 1, domains)
        self.dropout = Dropout(settings.dropout)
        self.activation = settings.activation
