"""The Base model (§4.1): one network for all domains."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.layers.linear import SharedLinear
from star_ctr.model.layers.stack import LayerStack


class BaseFCN(LayerStack):
    """The fully connected network of Base, which all domains share.

    Only the auxiliary network distinguishes between domains.

    Args:
        settings: Provides the widths of the hidden layers, the dropout and the activation.
        features: The number of features of z'.
    """

    def __init__(self, settings: ModelSettings, features: int) -> None:
        layers = [SharedLinear(a, b) for a, b in pairwise([features, *settings.layers, 1])]
        super().__init__(layers, settings.dropout, settings.activation)

    def output_bias(self, p: int) -> nn.Parameter:
        """Return the output bias, which all domains share."""
        bias: nn.Parameter = self.layers[-1].bias  # type: ignore[assignment]
        return bias
