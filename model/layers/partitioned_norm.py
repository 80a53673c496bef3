"""Partitioned normalization (§3.3, eq. 3 and 4) of the pooled features z.

Tensor names end in their shape: B rows of the batch, F features, G groups of rows with separate statistics.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from star_ctr.model.distributed.process_group import PendingGather, get_rank_and_size
from star_ctr.model.layers.per_domain import repeat_per_domain
from star_ctr.model.layers.segments import Segment, sum_over_ranks


class NormStatistics(nn.Module):
    """The running mean and variance of z for each group of rows (eq. 4); base class of partitioned and batch norm.

    Args:
        features: F.
        groups: G: the number of domains for partitioned normalization, 1 for batch normalization.
        momentum: Weight of a batch in the update of the running statistics.
        eps: Epsilon of eq. 3 and 4.

    Attributes:
        mean: The running mean, G x F.
        var: The running variance, G x F.
        steps: The number of batches that updated the statistics, G.
        single_row_batches: The number of rows that were the only row of their group in a batch, G.
        together: Whether the processes of a training run work on parts of the same batch. If False, each process has a
            separate batch.
    """

    mean: Tensor
    var: Tensor
    steps: Tensor
    single_row_batches: Tensor

    def __init__(self, features: int, groups: int, momentum: float, eps: float) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.shares_batch = True
        self._pending: list[PendingGather] = []
        self.register_buffer("mean", torch.zeros(groups, features))
        self.register_buffer("var", torch.ones(groups, features))
        self.register_buffer("steps", torch.zeros(groups, dtype=torch.long))
        self.register_buffer("single_row_batches", torch.zeros(groups, dtype=torch.long))

    def standardize(self, z_BF: Tensor, group: int) -> Tensor:
        """Subtract the mean from the rows of one group and divide them by the standard deviation.

        In training, this uses the mean and variance of the batch and updates the running statistics of the group. If a
        batch is split over several processes, the mean and variance are those of the whole batch. In evaluation, it
        uses the running statistics.

        A single row has no variance. It is normalized with the running statistics also in training, and is counted in
        `single_row_batches`.

        Args:
            z_BF: The rows of the group that this process has.
            group: The index of the group.

        Returns:
            The standardized rows, B x F.
        """
        mean_F, var_F = self.mean[group], self.var[group]
        if self.training:
            # With one process, avoid the tensor: reading its value would wait for the GPU.
            rows = (
                len(z_BF)
                if get_rank_and_size()[1] == 1
                else int(self._sum_over_processes(torch.tensor(len(z_BF), device=z_BF.device)))
            )
            if rows > 1:
                mean_F = self._sum_over_processes(z_BF.sum(0)) / rows
                var_F = self._sum_over_processes((z_BF - mean_F).square().sum(0)) / rows
            self._add_batch(group, rows, mean_F.detach(), var_F.detach())
        out_BF: Tensor = (z_BF - mean_F) / torch.sqrt(var_F + self.eps)
        return out_BF

    def _sum_over_processes(self, x: Tensor) -> Tensor:
        """Return the sum of `x` over the processes that share the batch."""
        return sum_over_ranks(x) if self.shares_batch else x

    def _add_batch(self, group: int, rows: int, mean_F: Tensor, var_F: Tensor) -> None:
        """Update the running statistics with those of a batch, now or in `apply_pending_statistics`."""
        if self.shares_batch or get_rank_and_size()[1] == 1:
            self._update_running_statistics(group, rows, mean_F, var_F)
        else:
            # Send everything in one message. A float represents the two integers exactly.
            self._pending.append(PendingGather(torch.cat([mean_F, var_F, mean_F.new_tensor([group, rows])])))

    def apply_pending_statistics(self) -> None:
        """Update the running statistics with the batches of all processes in this step, in the order of ranks.

        Does nothing if the processes share a batch, because `standardize` has updated the statistics.
        """
        features = self.mean.shape[1]
        for gather in self._pending:
            for message in gather.wait():
                mean_F, var_F, numbers = torch.split(message, [features, features, 2])
                self._update_running_statistics(int(numbers[0]), int(numbers[1]), mean_F, var_F)
        self._pending.clear()

    def _update_running_statistics(self, group: int, rows: int, mean_F: Tensor, var_F: Tensor) -> None:
        if rows <= 1:
            self.single_row_batches[group] += rows
            return
        # The first batch of a group replaces the initial values 0 and 1. Averaged with them, the statistics of a domain
        # with few batches would remain wrong.
        share = 1.0 if self.steps[group] == 0 else self.momentum
        self.mean[group].lerp_(mean_F, share)
        self.var[group].lerp_(var_F * rows / (rows - 1), share)
        self.steps[group] += 1


class PartitionedNorm(NormStatistics):
    """Partitioned normalization (§3.3): statistics, scale and bias per domain.

    Uses eq. 3 in training and eq. 4 in evaluation.

    Args:
        features: F.
        domains: The number of domains, including domain 0.
        momentum: Weight of a batch in the update of the running statistics.
        eps: Epsilon of eq. 3 and 4.

    Attributes:
        neutral_values: The names of the per-domain parameters, with the value at which a domain equals the shared
            model.
    """

    def __init__(self, features: int, domains: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__(features, domains, momentum, eps)
        self.gamma = nn.Parameter(torch.ones(features))
        self.beta = nn.Parameter(torch.zeros(features))
        self.neutral_values = {"gamma_p": 1.0, "beta_p": 0.0}
        self.gamma_p = repeat_per_domain(domains, torch.ones(features))
        self.beta_p = repeat_per_domain(domains, torch.zeros(features))

    def forward(self, z_BF: Tensor, segments: Iterable[Segment]) -> Tensor:
        """Normalize the rows of a batch.

        Args:
            z_BF: The pooled features, sorted by domain.
            segments: The rows of each domain.

        Returns:
            The normalized rows z', B x F, in the order of `z_BF`.
        """
        return torch.cat(
            [
                self.gamma * self.gamma_p[p] * self.standardize(z_BF[start:stop], p) + (self.beta + self.beta_p[p])
                for p, start, stop in segments
            ]
        )

    def fold_for_inference(self) -> FoldedNorm:
        """Return eq. 4 as one scale and one shift per domain."""
        return _fold_statistics(
            self, self.gamma * torch.stack(list(self.gamma_p)), self.beta + torch.stack(list(self.beta_p))
        )


class FoldedNorm(nn.Module):
    """A normalization in evaluation, reduced to a scale and a shift per group.

    G is the number of domains, or 1 if all domains share the scale and the shift.

    Args:
        scale_GF: The scale of each group.
        shift_GF: The shift of each group.
    """

    def __init__(self, scale_GF: Tensor, shift_GF: Tensor) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(scale_GF), nn.Parameter(shift_GF)

    def forward(self, z_BF: Tensor, segments: Iterable[Segment]) -> Tensor:
        """Return the normalized rows z', B x F."""
        if len(self.scale) == 1:
            return z_BF * self.scale + self.shift
        return torch.cat([z_BF[start:stop] * self.scale[p] + self.shift[p] for p, start, stop in segments])


def _fold_statistics(statistics: NormStatistics, gamma_GF: Tensor, beta_GF: Tensor) -> FoldedNorm:
    """Combine running statistics with the final scale and bias of each group."""
    scale_GF = gamma_GF / torch.sqrt(statistics.var + statistics.eps)
    return FoldedNorm(scale_GF.detach(), (beta_GF - scale_GF * statistics.mean).detach())
