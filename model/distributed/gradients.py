"""Sums of the gradients of a step over the processes of a training run.

Dense gradients are summed with an all-reduce that runs in the background (`DenseGradients`). Sparse gradients of
embedding tables are exchanged in a way that depends on where the tables are:

- `TableGradients`: a single process, or sharded tables. The gradients are already where they are needed.
- `CopiedTableGradients`: every process has a copy of the tables. All processes get all gradients.
- `SharedTableGradients`: the processes share the tables in memory. Each process gets the gradients of a range of rows.

Tensor names end in their shape: N rows of a table, D their width.
"""

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
    """The sum over all processes of the dense gradients of a step and of a small vector.

    The loss of each process is its share of the mean over the rows of the step. The sum of the gradients is therefore
    the gradient of the whole step.
    """

    def __init__(self, model: nn.Module, tables: EmbeddingTables) -> None:
        sparse = set(tables.parameters())
        self._parameters = [p for p in model.parameters() if p not in sparse]
        self._per_domain = [m for m in model.modules() if isinstance(m, PerDomain)]
        self._reduced: list[nn.Parameter] = []
        self._vector = self._flat = torch.zeros(0)
        self._work: dist.Work | None = None

    def begin(self, domains: Collection[int], vector: Tensor) -> None:
        """Start to sum the gradients in the background; call this after the backward pass.

        Args:
            domains: Domains of the batches of all processes, if each process has its own batch; otherwise empty. The
                parameters of these domains get zero gradients in the processes that have no row of the domain. All
                processes have gradients for the same other parameters.
            vector: A vector to sum along with the gradients.
        """
        self._vector = vector
        if get_rank_and_size()[1] == 1:
            return
        self._fill_in_zeros(domains)
        self._reduced = [p for p in self._parameters if p.grad is not None]
        self._flat = torch.cat([*(p.grad.flatten() for p in self._reduced if p.grad is not None), vector])
        self._work = dist.all_reduce(self._flat, async_op=True)

    def finish(self) -> Tensor:
        """Replace the gradients of the parameters by their sums; returns the sum of the vector."""
        if self._work is None:
            return self._vector
        self._work.wait()
        *sums, vector = torch.split(self._flat, [*(p.numel() for p in self._reduced), len(self._vector)])
        for parameter, total in zip(self._reduced, sums, strict=True):
            parameter.grad = total.view_as(parameter)
        return vector

    def _fill_in_zeros(self, domains: Collection[int]) -> None:
        """Set missing gradients of the parameters of the given domains to zero."""
        for module in self._per_domain if domains else ():
            for parameter in (module[p] for p in domains):
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)


class TableGradients:
    """The exchange of embedding gradients between processes.

    This base class exchanges nothing. It is for a single process, and for sharded tables, where the backward pass
    already sends gradients to the process that holds the rows.
    """

    def begin(self) -> None:
        """Publish the gradients of this process; call this after the backward pass."""

    def finish(self) -> None:
        """Replace the gradient of each table by the gradients of all processes for the rows that this one updates."""


class CopiedTableGradients(TableGradients):
    """The exchange between processes that each have a copy of the tables and update all rows."""

    def __init__(self, tables: EmbeddingTables) -> None:
        self._tables = list(tables.parameters())

    def finish(self) -> None:
        """Replace the gradient of each table by those of all processes.

        The new gradient is sparse. It has one entry per row and process that touched the row, in the order of ranks.
        """
        for table in self._tables:
            if table.grad is not None:
                table.grad = self._gather(table.grad)

    def _gather(self, gradient: Tensor) -> Tensor:
        """Concatenate the sparse gradients of all processes."""
        # gloo can sum sparse tensors, but sorts and adds them during the exchange, which takes twice as long.
        rows_N, values_ND = sum_by_row(gradient)
        sizes = [int(n) for n in all_gather(torch.tensor([len(rows_N)], device=rows_N.device))]

        def gather(x: Tensor) -> Tensor:
            # all_gather needs tensors of the same size.
            padded = torch.cat([x, x.new_zeros(max(sizes) - len(x), *x.shape[1:])])
            return torch.cat([part[:n] for part, n in zip(all_gather(padded), sizes, strict=True)])

        return _make_sparse(gather(rows_N), gather(values_ND), gradient)


class SharedTableGradients(TableGradients):
    """The exchange between processes that share the tables in memory and each update a range of the touched rows.

    Each process writes its gradients to shared memory, and reads the gradients of its range of rows from all processes.
    The processes wait for each other twice per step: between writing and reading, and between the update and the next
    read of the tables (see `SharedStepBatches.take` and `Trainer.wait_for_processes`).
    """

    def __init__(self, tables: EmbeddingTables) -> None:
        self._published = {table: _PublishedGradients(table) for table in tables.parameters()}
        self._all_published: dist.Work | None = None

    def begin(self) -> None:
        """Write the gradients of this process to shared memory."""
        for table, gradients in self._published.items():
            gradients.publish(table.grad)
        # A barrier in the background: it completes when all processes have published their gradients.
        self._all_published = dist.all_reduce(torch.zeros(1), async_op=True)

    def finish(self) -> None:
        """Replace the gradient of each table by those of all processes for the rows that this process updates.

        The new gradient is sparse. It has one entry per row and process that touched the row, in the order of ranks.
        """
        assert self._all_published is not None, "call begin first"
        self._all_published.wait()
        for table, gradients in self._published.items():
            table.grad = gradients.collect(table)


class _PublishedGradients:
    """The gradients of one table in shared memory: for each process, the touched rows in ascending order, and values.

    There is room for every row of the table, but only pages that are written to use memory.
    """

    def __init__(self, table: Tensor) -> None:
        rows, width = table.shape
        _, processes = get_rank_and_size()
        self._count = make_shared_zeros([processes], torch.long)
        self._rows = make_shared_zeros([processes, rows], torch.long)
        self._values = make_shared_zeros([processes, rows, width], table.dtype)

    def publish(self, gradient: Tensor | None) -> None:
        """Write the sparse gradient of this process; None if it touched no row."""
        rank, _ = get_rank_and_size()
        if gradient is None:
            self._count[rank] = 0
            return
        rows_N, values_ND = sum_by_row(gradient)
        self._count[rank] = n = len(rows_N)
        self._rows[rank, :n] = rows_N
        self._values[rank, :n] = values_ND

    def collect(self, table: Tensor) -> Tensor:
        """Return the gradients of all processes for the rows that this process updates, as a sparse gradient."""
        rank, processes = get_rank_and_size()
        touched = [rows_N[:n] for rows_N, n in zip(self._rows, self._count.tolist(), strict=True)]
        ranges = [slices[rank] for slices in split_rows(touched, processes)]
        rows = torch.cat([self._rows[other, part] for other, part in enumerate(ranges)])
        values = torch.cat([self._values[other, part] for other, part in enumerate(ranges)])
        return _make_sparse(rows, values, table)


_SAMPLING_INTERVAL = 64
"""`split_rows` samples one of this many rows to find ranges with similar numbers of entries."""


def split_rows(touched: Sequence[Tensor], processes: int) -> list[list[slice]]:
    """Split the touched rows into one range of row indices per process.

    Every process computes the same ranges. The ranges have about the same number of entries, because their bounds are
    quantiles of a sample of all entries.

    Args:
        touched: For each process, the rows that it touched, in ascending order.
        processes: Number of ranges.

    Returns:
        For each list of rows, the slice of each range. A row is in the same range in all lists.
    """
    sample = torch.cat([rows_N[::_SAMPLING_INTERVAL] for rows_N in touched]).sort().values
    positions = torch.arange(1, processes) * len(sample) // processes
    bounds = sample[positions] if len(sample) else positions
    slices = []
    for rows_N in touched:
        cuts = [0, *torch.searchsorted(rows_N, bounds).tolist(), len(rows_N)]
        slices.append([slice(a, b) for a, b in pairwise(cuts)])
    return slices


def _make_sparse(rows_N: Tensor, values_ND: Tensor, like: Tensor) -> Tensor:
    """Return a sparse tensor with the given rows and values and the shape of `like`."""
    return torch.sparse_coo_tensor(rows_N[None], values_ND, like.shape, check_invariants=False)
