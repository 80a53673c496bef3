"""Embedding tables one below the other in few tensors, and what a row looks up in them as one operation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from star_ctr.conf.contracts.encoded_row import PADDING
from star_ctr.model.embeddings.row_adam import GroupedRows, group_rows
from star_ctr.model.embeddings.sharding import WHOLE, count_rows_of_part, fetch_rows, gather_storage

BLOCK = 1 << 16
"""Rows that are drawn from one seed at the start."""


def compute_offsets(sizes: Mapping[str, int], widths: Mapping[str, int]) -> tuple[dict[str, int], dict[int, int]]:
    """What to add to a table's ids to have their rows in its storage, and the rows of the storage of a width."""
    offset: dict[str, int] = {}
    rows: dict[int, int] = {}
    for name, size in sizes.items():
        offset[name] = rows.get(widths[name], 1) - 1
        rows[widths[name]] = offset[name] + size
    return offset, rows


class EmbeddingTables(nn.Module):
    """The tables that all domains share (§3.1), those of one width in one storage.

    A batch then has one lookup, one sparse gradient and one update a width, where a table each would pay for
    twenty small ones. A storage may be shared out over the processes of a training (`sharding`). Row 0 of a storage
    is the padding row of all of its tables and stays 0; a table's ids from 1 on stand together, `offset` further down.
    """

    def __init__(self, sizes: Mapping[str, int], widths: Mapping[str, int], part: tuple[int, int] = WHOLE) -> None:
        """`sizes`: rows of each table, its padding row counted; `widths`: of its rows; `part`: see `sharding`."""
        super().__init__()
        self.widths, self.sizes, self.part = dict(widths), dict(sizes), part
        self.offset, self.rows = compute_offsets(sizes, widths)
        self.storages = nn.ParameterDict(
            {str(w): nn.Parameter(torch.empty(count_rows_of_part(n, part), w)) for w, n in self.rows.items()}
        )
        for width, storage in self.storages.items():
            if not storage.is_meta:
                self._start(storage, self.rows[int(width)])

    @torch.no_grad()
    def _start(self, storage: Tensor, rows: int) -> None:
        """Draw the embeddings in blocks with seeds of their own: all parts draw alike, and hold a block besides."""
        rank, parts = self.part
        for number, start in enumerate(range(0, rows, BLOCK)):
            seed = hash((torch.initial_seed(), storage.shape[1], number)) % (1 << 62)
            block = torch.empty(min(BLOCK, rows - start), storage.shape[1], dtype=storage.dtype, device="cpu")
            block.normal_(std=0.01, generator=torch.Generator().manual_seed(seed))
            first = (rank - start) % parts
            mine = block[first::parts]
            place = (start + first) // parts
            storage[place : place + len(mine)] = mine
        if rank == 0:
            storage[PADDING].zero_()

    @property
    def sharded(self) -> bool:
        """Whether other processes hold a part of the rows."""
        return self.part[1] > 1

    def of(self, name: str) -> Tensor:
        """A copy of one table, its padding row first, so that its ids are its rows."""
        storage, first = self.storages[str(self.widths[name])], self.offset[name] + 1
        return torch.cat([storage[:1], storage[first : first + self.sizes[name] - 1]])

    def gather_rows(self, width: int | str, rows: Tensor) -> tuple[Tensor, Tensor, GroupedRows | None]:
        """A tensor that holds what those rows of a storage hold, and their places in it, in `rows`' shape.

        That is the storage itself, or what was fetched from the processes that share it (all of them come here alike):
        the distinct rows in their order, with how they were grouped.
        """
        storage = self.storages[str(width)]
        if not self.sharded:
            return storage, rows, None
        groups = group_rows(rows.flatten(), self.rows[int(width)])
        return fetch_rows(storage, groups.rows, self.part), groups.places().view(rows.shape), groups

    def embed(self, name: str, ids: Tensor) -> Tensor:
        """The embeddings of ids of one table, each by itself: the ids' shape x width."""
        rows = (ids.long() + self.offset[name]).masked_fill_(ids == PADDING, PADDING)
        table, place, _ = self.gather_rows(self.widths[name], rows)
        if self.sharded:
            return F.embedding(place, table)
        return F.embedding(place, table, padding_idx=PADDING, sparse=torch.is_grad_enabled())

    @torch.no_grad()
    def gather(self) -> None:
        """Bring all parts to the first process, which is whole from then on; the others' are of no use any more."""
        if not self.sharded:
            return
        for width, storage in self.storages.items():
            if (whole := gather_storage(storage.detach(), self.rows[int(width)], self.part)) is not None:
                storage.data = whole
        self.part = WHOLE


class MeanLookup(nn.Module):
    """What each row looks up in the tables of one width: lists of ids, each as the mean of its embeddings.

    A single id is a list of one. Padding does not count; a list of padding alone gives 0.
    """

    column: Tensor
    offset: Tensor
    list: Tensor

    def __init__(self, lists: Sequence[tuple[int, int, int]]) -> None:
        """`lists`: of each, the place of its first id among a row's integers, its length, its table's offset."""
        super().__init__()
        self.lists = len(lists)
        of_list = [k for k, (_, length, _) in enumerate(lists) for _ in range(length)]
        column = [start + i for start, length, _ in lists for i in range(length)]
        offset = [offset for _, length, offset in lists for _ in range(length)]
        for name, values in (("column", column), ("offset", offset), ("list", of_list)):
            # Numbers also where a model is made on the meta device: they are no weights, and not saved with them.
            self.register_buffer(name, torch.tensor(values, dtype=torch.long, device="cpu"), persistent=False)

    def forward(self, tables: EmbeddingTables, width: int | str, ints_BI: Tensor) -> Tensor:
        """The means of each row, B x lists x width."""
        flat = ints_BI.index_select(1, self.column).flatten()
        place_M = flat.nonzero().squeeze(1)  # PADDING is 0
        row_M = torch.div(place_M, len(self.column), rounding_mode="floor")
        column_M = place_M - row_M * len(self.column)
        id_M = flat.index_select(0, place_M) + self.offset.index_select(0, column_M)
        list_M = row_M * self.lists + self.list.index_select(0, column_M)
        table, held_M, groups = tables.gather_rows(width, id_M)
        lists = len(ints_BI) * self.lists
        mean: Tensor = _Means.apply(table, held_M, list_M, lists, groups)  # type: ignore[no-untyped-call]
        return mean.view(len(ints_BI), self.lists, table.shape[1])


class _Means(torch.autograd.Function):
    """Means of rows of a table by list; entry m is row `row_M[m]` of list `list_M[m]`, lists in order.

    embedding_bag with a padding_idx does it too, but not on its fast path, and goes through all of the padding
    again on the way back.
    """

    @staticmethod
    def forward(
        ctx: Any, table: Tensor, row_M: Tensor, list_M: Tensor, lists: int, groups: GroupedRows | None
    ) -> Tensor:
        """The means, lists x the table's width; with `groups` the table holds the rows that they name and no others."""
        size_N = torch.bincount(list_M, minlength=lists)
        total = F.embedding_bag(row_M, table, size_N.cumsum(0) - size_N, mode="sum")
        share_N1 = size_N.clamp(min=1).to(table.dtype).reciprocal().unsqueeze(1)
        ctx.save_for_backward(row_M, list_M, share_N1)
        ctx.shape, ctx.groups = table.shape, groups
        return total * share_N1

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        """The table's gradient, summed by row: a dense one of the rows that were fetched, or a sparse one."""
        row_M, list_M, share_N1 = ctx.saved_tensors
        groups = ctx.groups or group_rows(row_M, ctx.shape[0])
        sum_ND = groups.sum_entries(gradient * share_N1, list_M)
        if ctx.groups is None:
            of_table = torch.sparse_coo_tensor(
                groups.rows[None], sum_ND, ctx.shape, check_invariants=False, is_coalesced=True
            )
        else:
            of_table = sum_ND
        return of_table, None, None, None, None
