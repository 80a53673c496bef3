"""STAR with low-rank domain-specific weights, and shrinkage of these weights, for `many_domains`.

W_p = 1 + U_p V_p with U_p of F x R and V_p of R x H, so a domain has only R (F + H) parameters per layer. Neither is a
setting of the model, because neither gave a better model (docs/training.md).

Tensor names end in their shape: F input features, H output features, R rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from star_ctr.model.layers.per_domain import PerDomain, repeat_per_domain
from star_ctr.model.layers.star_fcn import StarFCN, StarLinear
from star_ctr.model.models.multi_domain import MultiDomainModel


class LowRankWeights(nn.Module):
    """The weights W_p = 1 + U_p V_p of all domains.

    V_p = 0 initially, so W_p is 1, and U_p is random, so V_p has a gradient. A rank above F or H has no effect, so the
    rank is limited to them.
    """

    def __init__(self, features: int, out: int, domains: int, rank: int) -> None:
        super().__init__()
        rank = min(rank, features, out)
        self.neutral_values = {"u_p": 0.0, "v_p": 0.0}  # for their learning rate; the benchmark has no decay
        self.u_p = PerDomain(nn.Parameter(torch.randn(features, rank) / rank**0.5) for _ in range(domains))
        self.v_p = repeat_per_domain(domains, torch.zeros(rank, out))

    def __len__(self) -> int:
        return len(self.u_p)

    def __getitem__(self, p: int) -> Tensor:
        """Return W_p of domain `p`, F x H."""
        u_FR, v_RH = self.u_p[p], self.v_p[p]
        return torch.addmm(u_FR.new_ones(1), u_FR, v_RH)


class LowRankStarLinear(StarLinear):
    """A layer of the star topology FCN with low-rank W_p."""

    def __init__(self, features: int, out: int, domains: int, rank: int) -> None:
        super().__init__(features, out, 0)
        self.neutral_values = {"bias_p": 0.0}
        self.weight_p = LowRankWeights(features, out, domains, rank)  # type: ignore[assignment]
        self.bias_p = repeat_per_domain(domains, torch.zeros(out))


def use_rank(rank: int | None) -> AbstractContextManager[Any]:
    """Return a context in which new models of STAR have low-rank domain-specific weights.

    Args:
        rank: The rank; None: no limit, as in the model.
    """

    def make_network(
        features: int, widths: list[int], domains: int, dropout: float, activation: str, combine: str, spread: float
    ) -> StarFCN:
        network = StarFCN(features, widths, 0 if rank else domains, dropout, activation, combine, spread)
        if rank:
            sizes = pairwise([features, *widths, 1])
            network.layers = nn.ModuleList(LowRankStarLinear(a, b, domains, rank) for a, b in sizes)
        return network

    return patch("star_ctr.model.models.multi_domain.StarFCN", make_network)


@torch.no_grad()
def shrink_domain_weights(model: MultiDomainModel, rows: Mapping[int, int], prior: float) -> None:
    """Shrink W_p of each domain toward 1 by the factor n / (n + `prior`), where n is the number of its rows."""
    for layer in model.network.layers:  # type: ignore[union-attr]
        for p, weight_p_FH in enumerate(layer.weight_p):  # type: ignore[union-attr, arg-type]
            share = rows.get(p, 0) / (rows.get(p, 0) + prior)
            weight_p_FH.mul_(share).add_(1.0 - share)
