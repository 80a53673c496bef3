"""Linear layers: shared by all domains, one per domain, and one per expert.

Tensor names end in their shape: B rows of a batch, F features in, H features out, D domains, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from star_ctr.model.layers.per_domain import PerDomain, repeat_per_domain
from star_ctr.model.layers.segments import Segment


def init_kaiming(*shape: int) -> Tensor:
    """Weights (… x F x H) by Kaiming's rule for F inputs."""
    weight = torch.empty(*shape)
    bound = (6.0 / shape[-2]) ** 0.5
    return weight.uniform_(-bound, bound)


class SharedLinear(nn.Module):
    """A layer that all domains share."""

    def __init__(self, features: int, out: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(init_kaiming(features, out)), nn.Parameter(torch.zeros(out))

    def forward(self, x_BF: Tensor, segments: Iterable[Segment]) -> Tensor:
        """The layer's output before activation, B x H."""
        return torch.addmm(self.bias, x_BF, self.weight)

    def fold_for_inference(self) -> SharedLinear:
        """Itself."""
        return self


class DomainLinear(nn.Module):
    """A layer with the weights of each domain at hand (D x F x H) and its bias (D x H), for prediction."""

    def __init__(self, weight_DFH: Tensor, bias_DH: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight_DFH), nn.Parameter(bias_DH)

    def forward(self, x_BF: Tensor, segments: Iterable[Segment]) -> Tensor:
        """The layer's output before activation, B x H."""
        return torch.cat([torch.addmm(self.bias[p], x_BF[start:stop], self.weight[p]) for p, start, stop in segments])


class PerDomainLinear(nn.Module):
    """A layer of which each domain has its own; only the segment's own domain is computed."""

    def __init__(self, features: int, out: int, domains: int) -> None:
        super().__init__()
        self.weight = PerDomain(nn.Parameter(init_kaiming(features, out)) for _ in range(domains))
        self.bias = repeat_per_domain(domains, torch.zeros(out))

    def forward(self, x_BF: Tensor, segments: Iterable[Segment]) -> Tensor:
        """The layer's output before activation, B x H."""
        return torch.cat([torch.addmm(self.bias[p], x_BF[start:stop], self.weight[p]) for p, start, stop in segments])

    @torch.no_grad()
    def copy_domain(self, p: int, into: int) -> None:
        """The layer of the domain `into` becomes that of domain p."""
        self.weight[into].copy_(self.weight[p])
        self.bias[into].copy_(self.bias[p])

    def fold_for_inference(self) -> DomainLinear:
        """The weights of all domains in one tensor."""
        return DomainLinear(torch.stack(list(self.weight)).detach(), torch.stack(list(self.bias)).detach())


class ExpertLinear(nn.Module):
    """A layer of each of E networks that run side by side: B x F (the same rows for all) or E x B x F to E x B x H."""

    def __init__(self, networks: int, features: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(init_kaiming(networks, features, out))
        self.bias = nn.Parameter(torch.zeros(networks, 1, out))

    def forward(self, x_EBF: Tensor) -> Tensor:
        """The layer's output before activation."""
        return torch.matmul(x_EBF, self.weight) + self.bias

    @torch.no_grad()
    def copy(self, source: int, target: int) -> None:
        """Give one of the networks the weights of another."""
        self.weight[target], self.bias[target] = self.weight[source], self.bias[source]
