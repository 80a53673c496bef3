"""Linear layers: shared by all domains, one per domain, and one per expert.

All layers return their output before the activation. Layers that take `segments` expect the rows of a batch to be
sorted by domain.

Tensor names end in their shape: B rows of the batch, F input features, H output features, D domains, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from star_ctr.model.layers.per_domain import PerDomain, repeat_per_domain
from star_ctr.model.layers.segments import Segment


def init_kaiming(*shape: int) -> Tensor:
    """Return a weight tensor with Kaiming uniform initialization.

    Args:
        *shape: The shape of the tensor, ... x F x H. F is the fan-in.
    """
    weight = torch.empty(*shape)
    bound = (6.0 / shape[-2]) ** 0.5
    return weight.uniform_(-bound, bound)


class SharedLinear(nn.Module):
    """A linear layer that all domains share."""

    def __init__(self, features: int, out: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(init_kaiming(features, out)), nn.Parameter(torch.zeros(out))

    def forward(self, x_BF: Tensor, segments: Iterable[Segment]) -> Tensor:
        """Return the output before the activation, B x H."""
        return torch.addmm(self.bias, x_BF, self.weight)

    def fold_for_inference(self) -> SharedLinear:
        """Return the layer itself."""
        return self


class DomainLinear(nn.Module):
    """A per-domain linear layer for inference: the weights of all domains are in one tensor.

    Args:
        weight_DFH: The weights of each domain.
        bias_DH: The bias of each domain.
    """

    def __init__(self, weight_DFH: Tensor, bias_DH: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight_DFH), nn.Parameter(bias_DH)

    def forward(self, x_BF: Tensor, segments: Iterable[Segment]) -> Tensor:
        """Return the output before the activation, B x H."""
        return torch.cat([torch.addmm(self.bias[p], x_BF[start:stop], self.weight[p]) for p, start, stop in segments])


class PerDomainLinear(nn.Module):
    """A linear layer with separate weights for each domain; each row is computed with the layer of its domain only."""

    def __init__(self, features: int, out: int, domains: int) -> None:
        super().__init__()
        self.weight = PerDomain(nn.Parameter(init_kaiming(features, out)) for _ in range(domains))
        self.bias = repeat_per_domain(domains, torch.zeros(out))

    def forward(self, x_BF: Tensor, segments: Iterable[Segment]) -> Tensor:
        """Return the output before the activation, B x H."""
        return torch.cat([torch.addmm(self.bias[p], x_BF[start:stop], self.weight[p]) for p, start, stop in segments])

    @torch.no_grad()
    def copy_domain(self, source: int, target: int) -> None:
        """Copy the weights and bias of domain `source` to domain `target`."""
        self.weight[target].copy_(self.weight[source])
        self.bias[target].copy_(self.bias[source])

    def fold_for_inference(self) -> DomainLinear:
        """Return the layer with the weights of all domains in one tensor."""
        return DomainLinear(torch.stack(list(self.weight)).detach(), torch.stack(list(self.bias)).detach())


class ExpertLinear(nn.Module):
    """The linear layers of E parallel networks, computed as one batched matrix product.

    The input is B x F (the same rows for all networks) or E x B x F. The output is E x B x H.

    Args:
        networks: E.
        features: F.
        out: H.
    """

    def __init__(self, networks: int, features: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(init_kaiming(networks, features, out))
        self.bias = nn.Parameter(torch.zeros(networks, 1, out))

    def forward(self, x_EBF: Tensor) -> Tensor:
        """Return the output before the activation, E x B x H."""
        return torch.matmul(x_EBF, self.weight) + self.bias
