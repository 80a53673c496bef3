"""Embedding rows sharded over the processes of a training run.

Process i mod N holds row i of a storage, at index i div N, where N is the number of processes. A part of a storage is
described by the pair (rank, parts). A step works as follows:

1. Each process determines the distinct rows that its part of the batch needs, and sends their numbers to the processes
   that hold them (`all_to_all`).
2. The holders send the rows back.
3. In the backward pass, the gradients of the rows are sent to the holders, and each process updates its rows.

No process holds a whole table or sums gradients of a whole table. New and frequent values have neighboring ids, which
the modulus distributes evenly.

Tensor names end in their shape: N distinct rows that a process requests, M rows that a process sends to others, W width
of a row.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from star_ctr.conf.contracts.encoded_row import PADDING

WHOLE_PART = (0, 1)
"""The part of a process that holds all rows."""


def count_rows_of_part(rows: int, part: tuple[int, int]) -> int:
    """Return how many of `rows` rows a part (rank, parts) holds."""
    rank, parts = part
    return (rows - rank + parts - 1) // parts


def fetch_rows(storage: Tensor, rows_N: Tensor, part: tuple[int, int]) -> Tensor:
    """Fetch rows from the processes that hold them, with gradients. All processes must call this.

    Args:
        storage: The rows that this process holds.
        rows_N: The numbers of the rows to fetch, without duplicates.
        part: (rank, parts) of this process.

    Returns:
        The rows in the order of `rows_N`, N x W.
    """
    out: Tensor = _FetchRows.apply(storage, rows_N, part)  # type: ignore[no-untyped-call]
    return out


class _FetchRows(torch.autograd.Function):
    """The exchange of rows in the forward pass and of their gradients in the backward pass."""

    @staticmethod
    def forward(ctx: Any, storage: Tensor, rows_N: Tensor, part: tuple[int, int]) -> Tensor:
        """Return the requested rows in the order of `rows_N`, N x W."""
        _, parts = part
        holder_N = rows_N % parts
        index_by_holder = [(holder_N == holder).nonzero().squeeze(1) for holder in range(parts)]
        order_N = torch.cat(index_by_holder)
        request_counts = torch.tensor([len(index) for index in index_by_holder], device=rows_N.device)
        send_counts = torch.empty_like(request_counts)
        dist.all_to_all_single(send_counts, request_counts)
        requested, sent = request_counts.tolist(), send_counts.tolist()
        wanted_M = rows_N.new_empty(sum(sent))
        dist.all_to_all_single(wanted_M, rows_N[order_N], sent, requested)
        index_M = torch.div(wanted_M, parts, rounding_mode="floor")
        received_NW = storage.new_empty(len(rows_N), storage.shape[1])
        dist.all_to_all_single(received_NW, storage.index_select(0, index_M), requested, sent)
        ctx.save_for_backward(order_N, wanted_M, index_M)
        ctx.counts, ctx.shape = (requested, sent), storage.shape
        return torch.empty_like(received_NW).index_copy_(0, order_N, received_NW)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NW: Tensor) -> tuple[Tensor, None, None]:
        """Return the sparse gradient of this process's rows, with one entry per row and process that requested it."""
        order_N, wanted_M, index_M = ctx.saved_tensors
        requested, sent = ctx.counts
        received_MW = gradient_NW.new_empty(len(index_M), gradient_NW.shape[1])
        dist.all_to_all_single(received_MW, gradient_NW.index_select(0, order_N), sent, requested)
        known = (wanted_M != PADDING).nonzero().squeeze(1)  # the padding row must remain 0
        rows, values = index_M.index_select(0, known), received_MW.index_select(0, known)
        return torch.sparse_coo_tensor(rows[None], values, ctx.shape, check_invariants=False), None, None


def gather_storage(part_rows: Tensor, rows: int, part: tuple[int, int]) -> Tensor | None:
    """Gather the parts of a storage in the first process. All processes must call this.

    Args:
        part_rows: The rows that this process holds.
        rows: The number of rows of the whole storage.
        part: (rank, parts) of this process.

    Returns:
        All rows in the first process; None in the others.
    """
    rank, parts = part
    if rank > 0:
        dist.send(part_rows.contiguous(), 0)
        return None
    whole = part_rows.new_empty(rows, part_rows.shape[1])
    whole[0::parts] = part_rows
    for other in range(1, parts):
        received = part_rows.new_empty(count_rows_of_part(rows, (other, parts)), part_rows.shape[1])
        dist.recv(received, other)
        whole[other::parts] = received
    return whole


def reshard(
    source: Tensor,
    source_part: tuple[int, int],
    target: Tensor,
    target_part: tuple[int, int],
    moved: Tensor | None = None,
) -> None:
    """Copy the rows that two parts have in common; the numbers of parts may differ.

    Args:
        source: The rows of the part `source_part`.
        source_part: (rank, parts) of the source.
        target: The rows of the part `target_part`, which are overwritten. Rows that the source lacks do not change.
        target_part: (rank, parts) of the target.
        moved: The new number of each row of the whole storage, -1 for removed rows. By default, no number changes.
    """
    number = torch.arange(len(source)) * source_part[1] + source_part[0]
    if moved is not None:
        number = moved[number]
    index = ((number >= 0) & (number % target_part[1] == target_part[0])).nonzero().squeeze(1)
    target[torch.div(number[index], target_part[1], rounding_mode="floor")] = source[index].to(target)
