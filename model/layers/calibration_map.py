"""The map of logits that calibrates a model on the scores of earlier nights, one piecewise linear map per domain."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_MAX_LOGIT = 1e4
"""Larger logits are clipped: an infinite one would become NaN in a segment without slope."""


class CalibrationMap(nn.Module):
    """A strictly increasing, piecewise linear map of logits for each domain.

    A logit x is mapped to x plus an offset, so a map whose slopes are 0 shifts all logits by exactly the same number.

    Args:
        domains: The number of domains P.
        knots: The maximum number of knots of a map, K.
    """

    knots: Tensor
    """(P, K) logits at which the slope changes, ascending."""
    offsets: Tensor
    """(P, K) offset at each knot."""
    slopes: Tensor
    """(P, K + 1) change of the offset per unit of x: below the first knot, between the knots, above the last."""

    def __init__(self, domains: int, knots: int) -> None:
        super().__init__()
        # Unused knots are far above any logit. Like all exported tensors, they must be finite.
        self.register_buffer("knots", torch.full((domains, knots), 1e30))
        self.register_buffer("offsets", torch.zeros(domains, knots))
        self.register_buffer("slopes", torch.zeros(domains, knots + 1))
        self.knots[:, 0] = 0.0

    @classmethod
    def from_maps(cls, maps: Sequence[tuple[Sequence[float], Sequence[float], Sequence[float]]]) -> CalibrationMap:
        """Make the module from the knots, offsets and slopes of each domain, by its number."""
        module = cls(len(maps), max(len(knots) for knots, _, _ in maps))
        for p, (knots, offsets, slopes) in enumerate(maps):
            module.set_map(p, knots, offsets, slopes)
        return module

    def set_map(self, p: int, knots: Sequence[float], offsets: Sequence[float], slopes: Sequence[float]) -> None:
        """Set the map of a domain.

        Args:
            p: The number of the domain.
            knots: (k,) logits at which the slope changes, with 1 <= k <= K.
            offsets: (k,) offset at each knot.
            slopes: (k + 1,) change of the offset below, between and above the knots.
        """
        self.knots[p, : len(knots)] = torch.tensor(knots)
        self.offsets[p, : len(knots)] = torch.tensor(offsets)
        self.slopes[p, : len(slopes)] = torch.tensor(slopes)

    def forward(self, logit_B: Tensor, domain_B: Tensor) -> Tensor:
        """Map the logits of rows.

        Args:
            logit_B: The logits.
            domain_B: The domain number of each row.

        Returns:
            The mapped logits, B.
        """
        domain_B, logit_B = domain_B.long(), logit_B.clamp(-_MAX_LOGIT, _MAX_LOGIT)
        segment_B1 = (logit_B[:, None] >= self.knots[domain_B]).sum(1, keepdim=True)
        anchor_B1 = (segment_B1 - 1).clamp(min=0)
        knot_B, offset_B = (t[domain_B].gather(1, anchor_B1)[:, 0] for t in (self.knots, self.offsets))
        slope_B = self.slopes[domain_B].gather(1, segment_B1)[:, 0]
        return logit_B + (offset_B + slope_B * (logit_B - knot_B))
