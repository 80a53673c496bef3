"""Segments of a batch by domain, and sums over the processes of a training."""

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
"""(domain, start, stop): rows start..stop of a batch that is sorted by domain belong to the domain."""


def find_segments(domains: npt.NDArray[np.int32]) -> list[Segment]:
    """The segments of a batch whose rows have these domains, sorted; none for no rows."""
    starts = np.flatnonzero(np.diff(domains, prepend=-1)).tolist()
    stops = [*starts[1:], len(domains)][: len(starts)]
    return [(int(domains[start]), start, stop) for start, stop in zip(starts, stops, strict=True)]


def cut_across_ranks(segments: Iterable[Segment], rank: int, ranks: int) -> list[Segment]:
    """What of these segments falls to a rank that takes the rows rank, rank + ranks, rank + 2 ranks, ...

    Every segment of the batch stays, without rows where the batch has fewer than there are ranks: each rank
    has its part in the sums over ranks, whether or not it holds a row.
    """

    def before(row: int) -> int:
        return (row - rank + ranks - 1) // ranks

    return [(p, before(start), before(stop)) for p, start, stop in segments]


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of `x` over all processes, with gradients; `x` itself in a single process."""
    if get_rank_and_size()[1] > 1:
        summed: Tensor = _SumOverRanks.apply(x)  # type: ignore[no-untyped-call]
        return summed
    return x


class _SumOverRanks(torch.autograd.Function):
    """The sum over all processes; so is its gradient, as each process's share of the loss hangs on the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """The sum."""
        out = x.detach().clone()
        dist.all_reduce(out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The sum of the gradients."""
        out = gradient.contiguous().clone()
        dist.all_reduce(out)
        return out
