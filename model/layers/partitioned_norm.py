"""Partitioned normalization (§3.3, eq. 3 and 4) of the pooled features z.

Tensor names end in their shape: B rows of a batch, F features, G groups of rows with statistics of their own.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from star_ctr.model.distributed.process_group import PendingGather, get_rank_and_size
from star_ctr.model.layers.per_domain import repeat_per_domain
from star_ctr.model.layers.segments import Segment, sum_over_ranks


class NormStatistics(nn.Module):
    """Moving moments of z, for each of `groups` groups of rows (eq. 4); how they move is PN's and BN's alike."""

    mean: Tensor
    var: Tensor
    steps: Tensor
    lone_rows: Tensor

    def __init__(self, features: int, groups: int, momentum: float, eps: float) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.together = True
        """Whether the processes of a training have parts of one batch, or each a batch of its own."""
        self._told: list[PendingGather] = []
        self.register_buffer("mean", torch.zeros(groups, features))
        self.register_buffer("var", torch.ones(groups, features))
        self.register_buffer("steps", torch.zeros(groups, dtype=torch.long))
        self.register_buffer("lone_rows", torch.zeros(groups, dtype=torch.long))

    def standardize(self, z_BF: Tensor, group: int) -> Tensor:
        """Rows of one group, less their mean, over their deviation.

        In training by their own moments, over all processes where a batch is cut over several, and the group's
        moving moments move; in evaluation by the moving ones. One row alone has no variance: it takes the moving
        moments in training too, and is counted in `lone_rows`.
        """
        mean_F, var_F = self.mean[group], self.var[group]
        if self.training:
            # Not by a tensor where nobody else has a part: a GPU would be waited for.
            rows = (
                len(z_BF)
                if get_rank_and_size()[1] == 1
                else int(self._sum_over_group(torch.tensor(len(z_BF), device=z_BF.device)))
            )
            if rows > 1:
                mean_F = self._sum_over_group(z_BF.sum(0)) / rows
                var_F = self._sum_over_group((z_BF - mean_F).square().sum(0)) / rows
            self._update_running(group, rows, mean_F.detach(), var_F.detach())
        out_BF: Tensor = (z_BF - mean_F) / torch.sqrt(var_F + self.eps)
        return out_BF

    def _sum_over_group(self, x: Tensor) -> Tensor:
        """What this process has of a batch, with what the others have of it."""
        return sum_over_ranks(x) if self.together else x

    def _update_running(self, group: int, rows: int, mean_F: Tensor, var_F: Tensor) -> None:
        """Move the moving moments by what a batch showed; where each process has one of its own, `settle` does."""
        if self.together or get_rank_and_size()[1] == 1:
            self._move(group, rows, mean_F, var_F)
        else:
            # In one message, the numbers as floats, which hold them exactly.
            self._told.append(PendingGather(torch.cat([mean_F, var_F, mean_F.new_tensor([group, rows])])))

    def settle(self) -> None:
        """Move the moving moments by the batches of all processes of the step, in the order of ranks."""
        features = self.mean.shape[1]
        for told in self._told:
            for theirs in told.wait():
                mean_F, var_F, numbers = torch.split(theirs, [features, features, 2])
                self._move(int(numbers[0]), int(numbers[1]), mean_F, var_F)
        self._told.clear()

    def _move(self, group: int, rows: int, mean_F: Tensor, var_F: Tensor) -> None:
        if rows <= 1:
            self.lone_rows[group] += rows
            return
        # The first batch of a group sets its moments: mixed with the initial 0 and 1, those of a small
        # domain would stay wrong for all of its few batches.
        share = 1.0 if self.steps[group] == 0 else self.momentum
        self.mean[group].lerp_(mean_F, share)
        self.var[group].lerp_(var_F * rows / (rows - 1), share)
        self.steps[group] += 1


class PartitionedNorm(NormStatistics):
    """Partitioned normalization (§3.3): moments, scale and bias by domain (eq. 3 in training, eq. 4 in evaluation)."""

    def __init__(self, features: int, domains: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__(features, domains, momentum, eps)
        self.gamma = nn.Parameter(torch.ones(features))
        self.beta = nn.Parameter(torch.zeros(features))
        self.neutral = {"gamma_p": 1.0, "beta_p": 0.0}
        self.gamma_p = repeat_per_domain(domains, torch.ones(features))
        self.beta_p = repeat_per_domain(domains, torch.zeros(features))

    def forward(self, z_BF: Tensor, segments: Iterable[Segment]) -> Tensor:
        """The normalised rows z', in the order of `z_BF`."""
        return torch.cat(
            [
                self.gamma * self.gamma_p[p] * self.standardize(z_BF[start:stop], p) + (self.beta + self.beta_p[p])
                for p, start, stop in segments
            ]
        )

    def fold_for_inference(self) -> FoldedNorm:
        """Eq. 4 as one scale and one shift a domain."""
        return _fold(self, self.gamma * torch.stack(list(self.gamma_p)), self.beta + torch.stack(list(self.beta_p)))


class FoldedNorm(nn.Module):
    """A normalization in evaluation, as scale and shift by domain, or one for all (G is the domains, or 1)."""

    def __init__(self, scale_GF: Tensor, shift_GF: Tensor) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(scale_GF), nn.Parameter(shift_GF)

    def forward(self, z_BF: Tensor, segments: Iterable[Segment]) -> Tensor:
        """The normalised rows z'."""
        if len(self.scale) == 1:
            return z_BF * self.scale + self.shift
        return torch.cat([z_BF[start:stop] * self.scale[p] + self.shift[p] for p, start, stop in segments])


def _fold(moments: NormStatistics, gamma_GF: Tensor, beta_GF: Tensor) -> FoldedNorm:
    scale_GF = gamma_GF / torch.sqrt(moments.var + moments.eps)
    return FoldedNorm(scale_GF.detach(), (beta_GF - scale_GF * moments.mean).detach())
