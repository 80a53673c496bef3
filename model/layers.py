"""The paper's layers: partitioned normalization (§3.3) and the star topology FCN (§3.4).

Tensor names end in their shape: B rows of a batch, F features in, H features out.

Parameters of a domain are tensors of their own, one a domain, and not rows of a common one: after a step
on a batch of one domain all others have no gradient, so that the optimizer leaves their weights and its own
moments of them untouched to the bit (a row of a common tensor would go on moving by Adam's momentum).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
from torch import Tensor, nn

Segment = tuple[int, int, int]
"""(domain, start, stop): rows start..stop of a batch that is sorted by domain belong to the domain."""


def summed_over_ranks(x: Tensor) -> Tensor:
    """The sum of `x` over all processes, with gradients; `x` itself in a single process."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return dist_nn.all_reduce(x)  # type: ignore[no-any-return, no-untyped-call]
    return x


def activate(x: Tensor, name: str) -> Tensor:
    """The activation phi of eq. 6, by its name."""
    return torch.nn.functional.silu(x) if name == "silu" else torch.relu(x)


def per_domain(domains: int, value: Tensor) -> nn.ParameterList:
    """A copy of `value` for each domain."""
    return nn.ParameterList(nn.Parameter(value.clone()) for _ in range(domains))


class PartitionedNorm(nn.Module):
    """Partitioned normalization (§3.3, eq. 3 and 4).

    In training a segment is normalised by its own moments, over all processes where a batch is cut over
    several, and moves E_p and Var_p of its domain; in evaluation by E_p and Var_p. A segment of one row has
    no variance: it is normalised by the moving moments in training too, and counted in `lone_rows`.
    """

    mean: Tensor
    var: Tensor
    steps: Tensor
    lone_rows: Tensor

    def __init__(self, features: int, domains: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.gamma = nn.Parameter(torch.ones(features))
        self.beta = nn.Parameter(torch.zeros(features))
        self.gamma_p = per_domain(domains, torch.ones(features))
        self.beta_p = per_domain(domains, torch.zeros(features))
        self.register_buffer("mean", torch.zeros(domains, features))
        self.register_buffer("var", torch.ones(domains, features))
        self.register_buffer("steps", torch.zeros(domains, dtype=torch.long))
        self.register_buffer("lone_rows", torch.zeros(domains, dtype=torch.long))

    def forward(self, z_BF: Tensor, segments: Iterable[Segment]) -> Tensor:
        """The normalised rows z', in the order of `z_BF`."""
        return torch.cat([self._segment(z_BF[start:stop], p) for p, start, stop in segments])

    def _segment(self, z_BF: Tensor, p: int) -> Tensor:
        mean_F, var_F = self.mean[p], self.var[p]
        if self.training:
            rows = summed_over_ranks(torch.tensor(float(len(z_BF)), device=z_BF.device))
            if rows > 1:
                mean_F = summed_over_ranks(z_BF.sum(0)) / rows
                var_F = summed_over_ranks((z_BF - mean_F).square().sum(0)) / rows
                self._move(p, mean_F.detach(), var_F.detach() * rows / (rows - 1))
            else:
                self.lone_rows[p] += 1
        scale_F = self.gamma * self.gamma_p[p]
        out_BF: Tensor = scale_F * (z_BF - mean_F) / torch.sqrt(var_F + self.eps) + (self.beta + self.beta_p[p])
        return out_BF

    def _move(self, p: int, mean_F: Tensor, var_F: Tensor) -> None:
        # The first batch of a domain sets its moments: mixed with the initial 0 and 1, those of a small
        # domain would stay wrong for all of its few batches.
        share = 1.0 if self.steps[p] == 0 else self.momentum
        self.mean[p].lerp_(mean_F, share)
        self.var[p].lerp_(var_F, share)
        self.steps[p] += 1

    def folded(self) -> tuple[Tensor, Tensor]:
        """Eq. 4 as one scale and one shift a domain (D x F each): z' = scale * z + shift."""
        gamma_DF = self.gamma * torch.stack(list(self.gamma_p))
        beta_DF = self.beta + torch.stack(list(self.beta_p))
        scale_DF = gamma_DF / torch.sqrt(self.var + self.eps)
        return scale_DF, beta_DF - scale_DF * self.mean


class StarLinear(nn.Module):
    """One layer of the star topology FCN (eq. 5 and 6, before the activation).

    W_p* = W_p * W elementwise, b_p* = b_p + b; only the segment's own domain is computed. W starts by
    Kaiming's rule and W_p = 1, b = b_p = 0: every domain starts as the shared model.
    """

    def __init__(self, features: int, out: int, domains: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, out))
        nn.init.kaiming_uniform_(self.weight.T, nonlinearity="relu")
        self.bias = nn.Parameter(torch.zeros(out))
        self.weight_p = per_domain(domains, torch.ones(features, out))
        self.bias_p = per_domain(domains, torch.zeros(out))

    def forward(self, x_BF: Tensor, segments: Iterable[Segment]) -> Tensor:
        """The layer's output before activation, B x H."""
        return torch.cat(
            [
                torch.addmm(self.bias + self.bias_p[p], x_BF[start:stop], self.weight * self.weight_p[p])
                for p, start, stop in segments
            ]
        )

    def combined(self) -> tuple[Tensor, Tensor]:
        """The weights of every domain, combined ahead of time (§4.4): D x F x H and D x H."""
        weights = self.weight * torch.stack(list(self.weight_p))
        return weights, self.bias + torch.stack(list(self.bias_p))


class StarFCN(nn.Module):
    """The star topology FCN (§3.4): hidden layers with an activation, then a layer to one plain logit."""

    def __init__(
        self, features: int, widths: list[int], domains: int, dropout: float = 0.0, activation: str = "relu"
    ) -> None:
        super().__init__()
        sizes = [features, *widths, 1]
        self.layers = nn.ModuleList(StarLinear(a, b, domains) for a, b in zip(sizes, sizes[1:], strict=False))
        self.dropout = nn.Dropout(dropout)
        self.activation = activation

    def forward(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """The logit s_m of each row, B."""
        *hidden, last = self.layers
        for layer in hidden:
            x_BF = self.dropout(activate(layer(x_BF, segments), self.activation))
        out: Tensor = last(x_BF, segments)
        return out.squeeze(1)


class AuxiliaryNetwork(nn.Module):
    """The auxiliary network (§3.5): two layers over the domain's embedding and the pooled features z.

    The embeddings start at 0, so that every domain, one without examples too, starts alike.
    """

    def __init__(self, features: int, domains: int, domain_dim: int, width: int) -> None:
        super().__init__()
        self.domain = per_domain(domains, torch.zeros(domain_dim))
        self.hidden = nn.Linear(domain_dim + features, width)
        self.out = nn.Linear(width, 1)

    def forward(self, z_BF: Tensor, segments: Iterable[Segment]) -> Tensor:
        """The logit s_a of each row, B."""
        domain_BE = torch.cat([self.domain[p].expand(stop - start, -1) for p, start, stop in segments])
        hidden = torch.relu(self.hidden(torch.cat([domain_BE, z_BF], dim=1)))
        out: Tensor = self.out(hidden)
        return out.squeeze(1)
