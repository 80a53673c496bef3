"""Embedding rows shared out over the processes of a training: row i lives with process i mod N, at place i div N.

In a step each process asks for the distinct rows of its part of the batch: their numbers go to the processes that hold
them (all_to_all), the rows come back, and in the backward pass their gradients go the same way, so that each process
updates its own rows and nobody holds or sums the whole. Neighbouring ids, which new and frequent values are, spread
evenly by the modulus.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from star_ctr.conf.contracts.encoded_row import PADDING

WHOLE = (0, 1)
"""The part of a process that holds all rows."""


def count_rows_of_part(rows: int, part: tuple[int, int]) -> int:
    """How many of the rows a part holds."""
    rank, parts = part
    return (rows - rank + parts - 1) // parts


def fetch_rows(storage: Tensor, rows_N: Tensor, part: tuple[int, int]) -> Tensor:
    """The rows of those numbers (each once), N x width, from the processes that hold them; all processes call this."""
    out: Tensor = _FetchRows.apply(storage, rows_N, part)  # type: ignore[no-untyped-call]
    return out


class _FetchRows(torch.autograd.Function):
    """Rows from their holders, and gradients back to them."""

    @staticmethod
    def forward(ctx: Any, storage: Tensor, rows_N: Tensor, part: tuple[int, int]) -> Tensor:
        """The rows, in the order in which they were asked for."""
        _, parts = part
        holder_N = rows_N % parts
        of_each = [(holder_N == holder).nonzero().squeeze(1) for holder in range(parts)]
        order_N, ask = torch.cat(of_each), torch.tensor([len(of) for of in of_each], device=rows_N.device)
        give = torch.empty_like(ask)
        dist.all_to_all_single(give, ask)
        asked, given = ask.tolist(), give.tolist()
        wanted_M = rows_N.new_empty(sum(given))
        dist.all_to_all_single(wanted_M, rows_N[order_N], given, asked)
        place_M = torch.div(wanted_M, parts, rounding_mode="floor")
        came = storage.new_empty(len(rows_N), storage.shape[1])
        dist.all_to_all_single(came, storage.index_select(0, place_M), asked, given)
        ctx.save_for_backward(order_N, wanted_M, place_M)
        ctx.counts, ctx.shape = (asked, given), storage.shape
        return torch.empty_like(came).index_copy_(0, order_N, came)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NW: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of this process's rows, sparse: an entry for each process that asked for a row."""
        order_N, wanted_M, place_M = ctx.saved_tensors
        asked, given = ctx.counts
        back = gradient_NW.new_empty(len(place_M), gradient_NW.shape[1])
        dist.all_to_all_single(back, gradient_NW.index_select(0, order_N), given, asked)
        known = (wanted_M != PADDING).nonzero().squeeze(1)  # the padding row stays 0
        rows, values = place_M.index_select(0, known), back.index_select(0, known)
        return torch.sparse_coo_tensor(rows[None], values, ctx.shape, check_invariants=False), None, None


def gather_storage(mine: Tensor, rows: int, part: tuple[int, int]) -> Tensor | None:
    """All rows of a storage, in the first process; None in the others. All processes call this."""
    rank, parts = part
    if rank > 0:
        dist.send(mine.contiguous(), 0)
        return None
    whole = mine.new_empty(rows, mine.shape[1])
    whole[0::parts] = mine
    for other in range(1, parts):
        theirs = mine.new_empty(count_rows_of_part(rows, (other, parts)), mine.shape[1])
        dist.recv(theirs, other)
        whole[other::parts] = theirs
    return whole


def reshard(
    theirs: Tensor, of: tuple[int, int], mine: Tensor, part: tuple[int, int], moved: Tensor | None = None
) -> None:
    """Put into `mine`, this process's part, those rows that it has of another part, `of`, of perhaps another number.

    `moved`: the new number of each row of the whole, -1 for those that are no more; None where all stay.
    """
    number = torch.arange(len(theirs)) * of[1] + of[0]
    if moved is not None:
        number = moved[number]
    here = ((number >= 0) & (number % part[1] == part[0])).nonzero().squeeze(1)
    mine[torch.div(number[here], part[1], rounding_mode="floor")] = theirs[here].to(mine)
