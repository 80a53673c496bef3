"""The star topology FCN (§3.4, eq. 5 and 6).

Tensor names end in their shape: B rows of the batch, F input features, H output features, D domains.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn

from star_ctr.model.layers.linear import DomainLinear
from star_ctr.model.layers.per_domain import repeat_per_domain
from star_ctr.model.layers.segments import Segment
from star_ctr.model.layers.stack import LayerStack


class StarLinear(nn.Module):
    """One layer of the star topology FCN (eq. 5 and 6, before the activation).

    The weights of domain p are W_p* = W_p * W (elementwise), its bias is b_p* = b_p + b. Each row is computed with the
    weights of its domain only. W has Kaiming initialization, W_p = 1 and b = b_p = 0, so every domain starts as the
    shared model.

    Args:
        features: F.
        out: H.
        domains: D, including domain 0.
        combine: `product` as in eq. 5, or `sum`: W_p* = W_p + W, where W_p starts at 0.
        spread: Standard deviation of random noise that is added to the initial W_p of known domains. Domain 0 (unknown
            domains) starts as the shared model.

    Attributes:
        neutral_values: The names of the per-domain parameters, with the value at which a domain equals the shared
            model.
    """

    def __init__(self, features: int, out: int, domains: int, combine: str = "product", spread: float = 0.0) -> None:
        super().__init__()
        self.combine = combine
        self.neutral_values = {"weight_p": 1.0 if combine == "product" else 0.0, "bias_p": 0.0}
        self.weight = nn.Parameter(torch.empty(features, out))
        nn.init.kaiming_uniform_(self.weight.T, nonlinearity="relu")
        self.bias = nn.Parameter(torch.zeros(out))
        self.weight_p = repeat_per_domain(domains, torch.full((features, out), self.neutral_values["weight_p"]))
        self.bias_p = repeat_per_domain(domains, torch.zeros(out))
        if spread:
            for weight in list(self.weight_p)[1:]:  # domain 0 starts as the shared model
                weight.data += spread * torch.randn_like(weight)

    def combine_weights(self, p: int) -> Tensor:
        """Return the weights W_p* of domain `p` (eq. 5), F x H."""
        weight_p_FH: Tensor = self.weight_p[p]
        return self.weight * weight_p_FH if self.combine == "product" else self.weight + weight_p_FH

    def forward(self, x_BF: Tensor, segments: Iterable[Segment]) -> Tensor:
        """Compute eq. 6 before the activation.

        Args:
            x_BF: The input rows, sorted by domain.
            segments: The rows of each domain.

        Returns:
            The output, B x H.
        """
        return torch.cat(
            [
                torch.addmm(self.bias + self.bias_p[p], x_BF[start:stop], self.combine_weights(p))
                for p, start, stop in segments
            ]
        )

    def fold_for_inference(self) -> DomainLinear:
        """Return the layer with W_p* and b_p* of all domains computed ahead of time (§4.4)."""
        weights_DFH = torch.stack([self.combine_weights(p) for p in range(len(self.weight_p))])
        return DomainLinear(weights_DFH.detach(), (self.bias + torch.stack(list(self.bias_p))).detach())


class StarFCN(LayerStack):
    """The star topology FCN (§3.4), whose output is the logit s_m of eq. 7.

    Args:
        features: The number of features of z'.
        widths: The widths of the hidden layers. The output layer is added.
        domains: D, including domain 0.
        dropout: The share of the hidden layers' outputs that is dropped in training.
        activation: The name of the activation phi of eq. 6.
        combine: How W and W_p are combined, see `StarLinear`.
        spread: Standard deviation of the initial W_p, see `StarLinear`.
    """

    def __init__(
        self,
        features: int,
        widths: list[int],
        domains: int,
        dropout: float = 0.0,
        activation: str = "relu",
        combine: str = "product",
        spread: float = 0.0,
    ) -> None:
        layers = [StarLinear(a, b, domains, combine, spread) for a, b in pairwise([features, *widths, 1])]
        super().__init__(layers, dropout, activation)

    def output_bias(self, p: int) -> nn.Parameter:
        """Return the output bias of domain `p`: b_p of the last layer."""
        bias: nn.Parameter = self.layers[-1].bias_p[p]  # type: ignore[assignment,index]
        return bias
