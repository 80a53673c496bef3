"""The star topology FCN (§3.4, eq. 5 and 6).

Tensor names end in their shape: B rows of a batch, F features in, H features out, D domains.
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

    W_p* = W_p * W elementwise, b_p* = b_p + b; only the segment's own domain is computed. W starts by
    Kaiming's rule and W_p = 1, b = b_p = 0: every domain starts as the shared model. With `combine` sum,
    W_p* = W_p + W and W_p starts at 0. A `spread` above 0 starts the W_p of known domains at random around that.
    """

    def __init__(self, features: int, out: int, domains: int, combine: str = "product", spread: float = 0.0) -> None:
        super().__init__()
        self.combine = combine
        self.neutral = {"weight_p": 1.0 if combine == "product" else 0.0, "bias_p": 0.0}
        self.weight = nn.Parameter(torch.empty(features, out))
        nn.init.kaiming_uniform_(self.weight.T, nonlinearity="relu")
        self.bias = nn.Parameter(torch.zeros(out))
        self.weight_p = repeat_per_domain(domains, torch.full((features, out), self.neutral["weight_p"]))
        self.bias_p = repeat_per_domain(domains, torch.zeros(out))
        if spread:
            for weight in list(self.weight_p)[1:]:  # domain 0, of unknown ones, stays the shared model
                weight.data += spread * torch.randn_like(weight)

    def own_weight(self, p: int) -> Tensor:
        """W_p* (eq. 5), F x H."""
        own: Tensor = self.weight_p[p]
        return self.weight * own if self.combine == "product" else self.weight + own

    def forward(self, x_BF: Tensor, segments: Iterable[Segment]) -> Tensor:
        """The layer's output before activation, B x H."""
        return torch.cat(
            [
                torch.addmm(self.bias + self.bias_p[p], x_BF[start:stop], self.own_weight(p))
                for p, start, stop in segments
            ]
        )

    def fold_for_inference(self) -> DomainLinear:
        """The layer with the weights of every domain combined ahead of time (§4.4)."""
        weights_DFH = torch.stack([self.own_weight(p) for p in range(len(self.weight_p))])
        return DomainLinear(weights_DFH.detach(), (self.bias + torch.stack(list(self.bias_p))).detach())


class StarFCN(LayerStack):
    """The star topology FCN (§3.4); its output is s_m."""

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

    def level(self, p: int) -> nn.Parameter:
        """What adds to the logits of domain p alone: b_p of the last layer."""
        bias: nn.Parameter = self.layers[-1].bias_p[p]  # type: ignore[assignment,index]
        return bias
