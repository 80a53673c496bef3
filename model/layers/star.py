"""The paper's layers: the star topology FCN (§3.4) and the auxiliary network (§3.5).

Tensor names end in their shape: B rows of a batch, F features in, H features out, D domains.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn

from star_ctr.model.layers.normalization import Segment, repeat_per_domain


def activate(x: Tensor, name: str) -> Tensor:
    """The activation phi of eq. 6, by its name."""
    return torch.nn.functional.silu(x) if name == "silu" else torch.relu(x)


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


class DomainLinear(nn.Module):
    """A layer with the weights of each domain at hand (D x F x H) and its bias (D x H), for prediction."""

    def __init__(self, weight_DFH: Tensor, bias_DH: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight_DFH), nn.Parameter(bias_DH)

    def forward(self, x_BF: Tensor, segments: Iterable[Segment]) -> Tensor:
        """The layer's output before activation, B x H."""
        return torch.cat([torch.addmm(self.bias[p], x_BF[start:stop], self.weight[p]) for p, start, stop in segments])


class Dropout(nn.Module):
    """Inverted dropout: in training a share `p` of the entries, drawn anew, is 0 and the others grow by 1 / (1 - p).

    torch's own draws its mask from bernoulli_, which on the CPU takes longer than the layer before it. Here a draw
    of 64 bits serves four entries, so that `p` is rounded to 1 / 65536.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = round(p * 2**16) / 2**16

    def forward(self, x: Tensor) -> Tensor:
        """`x` with a share of its entries dropped; `x` itself in evaluation."""
        if not self.training or self.p == 0:
            return x
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.long, device=x.device).random_(-(2**63), None)
        kept = draws.view(torch.int16)[: x.numel()].view(x.shape) >= self.p * 2**16 - 2**15
        return x * kept.to(x.dtype).mul_(1.0 / (1.0 - self.p))


class LayerStack(nn.Module):
    """Hidden layers with an activation and dropout, then a layer to one plain logit."""

    def __init__(self, layers: Iterable[nn.Module], dropout: float = 0.0, activation: str = "relu") -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.dropout = Dropout(dropout)
        self.activation = activation

    def hidden(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """The output of the last hidden layer, B x H."""
        for layer in self.layers[:-1]:
            x_BF = self.dropout(activate(layer(x_BF, segments), self.activation))
        return x_BF

    def forward(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """The logit of each row, B."""
        out: Tensor = self.layers[-1](self.hidden(x_BF, segments), segments)
        return out.squeeze(1)

    def fold_for_inference(self) -> LayerStack:
        """The same with each layer as it is served."""
        return LayerStack([layer.fold_for_inference() for layer in self.layers], 0.0, self.activation)  # type: ignore[operator]


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
