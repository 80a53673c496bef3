"""The gradients of a step, summed over the processes of a training: dense ones, and those of embeddings."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor, nn

from star_ctr.model.distributed.process_group import all_gather, get_rank_and_size
from star_ctr.model.distributed.shared_memory import make_shared_zeros
from star_ctr.model.embeddings.row_adam import sum_by_row
from star_ctr.model.embeddings.tables import EmbeddingTables
from star_ctr.model.layers.per_domain import PerDomain


class DenseGradients:
    """The sum over all processes of the dense gradients of a step, and of a vector beside them.

    Each process's loss is its share of the mean over the step's rows, so the sum is the gradient of the whole step.
    """

    def __init__(self, model: nn.Module, tables: EmbeddingTables) -> None:
        sparse = set(tables.parameters())
        self._parameters = [p for p in model.parameters() if p not in sparse]
        self._per_domain = [m for m in model.modules() if isinstance(m, PerDomain)]
        self._summed: list[nn.Parameter] = []
        self._beside = self._flat = torch.zeros(0)
        self._work: dist.Work | None = None

    def begin(self, domains: Collection[int], beside: Tensor) -> None:
        """The backward pass is over: send what this process has on its way, and the vector `beside`.

        `domains`: those of all processes, if each has a batch of its own: what a domain has of its own then has a
        gradient of 0 in the processes that did not see it. Of all other parameters they have gradients alike.
        """
        self._beside = beside
        if get_rank_and_size()[1] == 1:
            return
        self._fill_in_zeros(domains)
        self._summed = [p for p in self._parameters if p.grad is not None]
        self._flat = torch.cat([*(p.grad.flatten() for p in self._summed if p.grad is not None), beside])
        self._work = dist.all_reduce(self._flat, async_op=True)

    def finish(self) -> Tensor:
        """Put the sums in the gradients' place; returns that of `beside`."""
        if self._work is None:
            return self._beside
        self._work.wait()
        *sums, beside = torch.split(self._flat, [*(p.numel() for p in self._summed), len(self._beside)])
        for parameter, total in zip(self._summed, sums, strict=True):
            parameter.grad = total.view_as(parameter)
        return beside

    def _fill_in_zeros(self, domains: Collection[int]) -> None:
        """Give what these domains have of their own a gradient of 0 where it has none."""
        for module in self._per_domain if domains else ():
            for parameter in (module[p] for p in domains):
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)


class TableGradients:
    """How the gradients of embeddings come to whoever updates the rows; as here, they are with it already.

    That is so of one process alone, and of sharded tables, where the backward pass brings them.
    """

    def begin(self) -> None:
        """The backward pass is over: tell the others what there is for them."""

    def finish(self) -> None:
        """Put in the place of each table's gradient the rows that this process is to update, of all processes."""


class CopiedTableGradients(TableGradients):
    """Each process has tables of its own, and updates the rows of all."""

    def __init__(self, tables: EmbeddingTables) -> None:
        self._tables = list(tables.parameters())

    def finish(self) -> None:
        """All rows, in the order of ranks: a row once for each that touched it."""
        for table in self._tables:
            if table.grad is not None:
                table.grad = self._gather(table.grad)

    def _gather(self, gradient: Tensor) -> Tensor:
        # gloo's own sum of sparse tensors sorts and adds them on the way, which takes twice as long.
        rows_N, values_ND = sum_by_row(gradient)
        sizes = [int(n) for n in all_gather(torch.tensor([len(rows_N)], device=rows_N.device))]

        def joined(mine: Tensor) -> Tensor:
            padded = torch.cat([mine, mine.new_zeros(max(sizes) - len(mine), *mine.shape[1:])])  # all send as much
            return torch.cat([theirs[:n] for theirs, n in zip(all_gather(padded), sizes, strict=True)])

        return _make_sparse(joined(rows_N), joined(values_ND), gradient)


class SharedTableGradients(TableGradients):
    """The processes of a machine have their tables in common: each updates a range of the rows that a step touches.

    Each lays its gradients open, and takes from all of them those of its rows. Between the two they wait for one
    another; so they do from the update to the next look into the tables (`stream.steps`, `Trainer.settle`).
    """

    def __init__(self, tables: EmbeddingTables) -> None:
        self._open = {table: _OpenSteps(table) for table in tables.parameters()}
        self._told: dist.Work | None = None

    def begin(self) -> None:
        """Lay this process's gradients open."""
        for table, gradients in self._open.items():
            gradients.put(table.grad)
        self._told = dist.all_reduce(torch.zeros(1), async_op=True)

    def finish(self) -> None:
        """The rows of this process, in the order of ranks: a row once for each that touched it."""
        assert self._told is not None, "begin comes first"
        self._told.wait()
        for table, gradients in self._open.items():
            table.grad = gradients.own(table)


class _OpenSteps:
    """The gradients of one table that all processes lay open to one another: rows, ascending, and a value for each.

    There is room for as many as the table has; only what is written to takes memory.
    """

    def __init__(self, table: Tensor) -> None:
        rows, width = table.shape
        _, processes = get_rank_and_size()
        self._count = make_shared_zeros([processes], torch.long)
        self._rows = make_shared_zeros([processes, rows], torch.long)
        self._values = make_shared_zeros([processes, rows, width], table.dtype)

    def put(self, gradient: Tensor | None) -> None:
        """Lay open what this process has."""
        rank, _ = get_rank_and_size()
        if gradient is None:
            self._count[rank] = 0
            return
        rows_N, values_ND = sum_by_row(gradient)
        self._count[rank] = n = len(rows_N)
        self._rows[rank, :n] = rows_N
        self._values[rank, :n] = values_ND

    def own(self, table: Tensor) -> Tensor:
        """What all processes have for the rows that are this process's to update, as a sparse gradient."""
        rank, processes = get_rank_and_size()
        touched = [rows_N[:n] for rows_N, n in zip(self._rows, self._count.tolist(), strict=True)]
        ranges = [slices[rank] for slices in split_rows(touched, processes)]
        rows = torch.cat([self._rows[other, mine] for other, mine in enumerate(ranges)])
        values = torch.cat([self._values[other, mine] for other, mine in enumerate(ranges)])
        return _make_sparse(rows, values, table)


_SAMPLED = 64
"""Of so many rows one is looked at to find ranges of rows that give each process as much to do."""


def split_rows(touched: Sequence[Tensor], processes: int) -> list[list[slice]]:
    """Of each list of ascending rows the slices that fall to each process: the same row to the same one in all lists.

    Every process finds the same, and has about as many entries as the others.
    """
    sample = torch.cat([rows_N[::_SAMPLED] for rows_N in touched]).sort().values
    later = torch.arange(1, processes) * len(sample) // processes
    starts = sample[later] if len(sample) else later
    slices = []
    for rows_N in touched:
        cuts = [0, *torch.searchsorted(rows_N, starts).tolist(), len(rows_N)]
        slices.append([slice(a, b) for a, b in pairwise(cuts)])
    return slices


def _make_sparse(rows_N: Tensor, values_ND: Tensor, like: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(rows_N[None], values_ND, like.shape, check_invariants=False)
