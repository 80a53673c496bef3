"""Segments of a batch by domain, and sums over the processes of a training run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from star_ctr.model.distributed.process_group import get_rank_and_size

Segment = tuple[int, int, int]
"""(domain, start, stop): the rows start..stop - 1 of a batch that is sorted by domain belong to the domain."""


def find_segments(domains: npt.NDArray[np.int32]) -> list[Segment]:
    """Return the segments of a batch.

    Args:
        domains: The domain number of each row, in ascending order.

    Returns:
        One segment per domain; an empty list if the batch has no rows.
    """
    starts = np.flatnonzero(np.diff(domains, prepend=-1)).tolist()
    stops = [*starts[1:], len(domains)][: len(starts)]
    return [(int(domains[start]), start, stop) for start, stop in zip(starts, stops, strict=True)]


def select_rank_segments(segments: Iterable[Segment], rank: int, ranks: int) -> list[Segment]:
    """Return the segments of the rows that a rank takes from a batch.

    The rank takes the rows `rank`, `rank + ranks`, `rank + 2 * ranks`, and so on. The result has all segments of the
    batch, including those in which the rank has no row, because every rank must take part in the sums over ranks.

    Args:
        segments: The segments of the whole batch.
        rank: The rank of the process.
        ranks: The number of processes.

    Returns:
        The segments, with positions relative to the rows of the rank.
    """

    def count_before(row: int) -> int:
        return (row - rank + ranks - 1) // ranks

    return [(p, count_before(start), count_before(stop)) for p, start, stop in segments]


def sum_over_ranks(x: Tensor) -> Tensor:
    """Return the sum of `x` over all processes, with gradients; with one process, return `x` itself."""
    if get_rank_and_size()[1] > 1:
        summed: Tensor = _SumOverRanks.apply(x)  # type: ignore[no-untyped-call]
        return summed
    return x


class _SumOverRanks(torch.autograd.Function):
    """The differentiable sum over all processes.

    Its gradient is also summed over all processes, because each process's part of the loss depends on the sum.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the sum of `x` over all processes."""
        out = x.detach().clone()
        dist.all_reduce(out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return the sum of the gradients over all processes."""
        out = gradient.contiguous().clone()
        dist.all_reduce(out)
        return out
