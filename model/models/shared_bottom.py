"""The Shared Bottom model (§4.1): shared embeddings, and one network per domain."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.layers.linear import PerDomainLinear
from star_ctr.model.layers.stack import LayerStack


class SharedBottom(LayerStack):
    """The fully connected networks of Shared Bottom, one per domain.

    Args:
        settings: Provides the widths of the hidden layers, the dropout and the activation.
        features: The number of features of z'.
        domains: The number of domains, including domain 0.
    """

    def __init__(self, settings: ModelSettings, features: int, domains: int) -> None:
        layers = [PerDomainLinear(a, b, domains) for a, b in pairwise([features, *settings.layers, 1])]
        super().__init__(layers, settings.dropout, settings.activation)

    def output_bias(self, p: int) -> nn.Parameter:
        """Return the output bias of domain `p`."""
        bias: nn.Parameter = self.layers[-1].bias[p]  # type: ignore[assignment,index]
        return bias
