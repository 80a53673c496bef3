"""Embedding tables one below the other in few tensors, and what a row looks up in them as one operation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from star_ctr.conf.layout import PADDING


class EmbeddingTables(nn.Module):
    """The tables that all domains share (§3.1), those of one width in one storage.

    A batch then has one lookup, one sparse gradient and one update a width, where a table each would pay for
    twenty small ones. Row 0 of a storage is the padding row of all of its tables and stays 0; a table's ids from 1
    on stand together, `offset` further down.
    """

    def __init__(self, sizes: Mapping[str, int], widths: Mapping[str, int]) -> None:
        """`sizes`: rows of each table, its padding row counted; `widths`: of its rows."""
        super().__init__()
        self.widths, self.sizes = dict(widths), dict(sizes)
        self.offset: dict[str, int] = {}
        """What to add to a table's ids to have their rows in its storage."""
        rows: dict[int, int] = {}
        for name, size in sizes.items():
            self.offset[name] = rows.get(widths[name], 1) - 1
            rows[widths[name]] = self.offset[name] + size
        self.storages = nn.ParameterDict({str(w): nn.Parameter(torch.empty(n, w)) for w, n in rows.items()})
        for storage in self.storages.values():
            nn.init.normal_(storage, std=0.01)
            with torch.no_grad():
                storage[PADDING].zero_()

    def of(self, name: str) -> Tensor:
        """A copy of one table, its padding row first, so that its ids are its rows."""
        storage, first = self.storages[str(self.widths[name])], self.offset[name] + 1
        return torch.cat([storage[:1], storage[first : first + self.sizes[name] - 1]])

    def embedded(self, name: str, ids: Tensor) -> Tensor:
        """The embeddings of ids of one table, each by itself: the ids' shape x width."""
        rows = (ids + self.offset[name]).masked_fill_(ids == PADDING, PADDING)
        storage = self.storages[str(self.widths[name])]
        return F.embedding(rows, storage, padding_idx=PADDING, sparse=torch.is_grad_enabled())


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

    def forward(self, storage: Tensor, ints_BI: Tensor) -> Tensor:
        """The means of each row, B x lists x width."""
        flat = ints_BI.index_select(1, self.column).flatten()
        place_M = flat.nonzero().squeeze(1)  # PADDING is 0
        row_M = torch.div(place_M, len(self.column), rounding_mode="floor")
        column_M = place_M - row_M * len(self.column)
        id_M = flat.index_select(0, place_M) + self.offset.index_select(0, column_M)
        list_M = row_M * self.lists + self.list.index_select(0, column_M)
        mean: Tensor = _Means.apply(storage, id_M, list_M, len(ints_BI) * self.lists)  # type: ignore[no-untyped-call]
        return mean.view(len(ints_BI), self.lists, storage.shape[1])


class _Means(torch.autograd.Function):
    """Means of rows of a table by list; entry m is row `row_M[m]` of list `list_M[m]`, lists in order.

    embedding_bag with a padding_idx does it too, but not on its fast path, and goes through all of the padding
    again on the way back.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, row_M: Tensor, list_M: Tensor, lists: int) -> Tensor:
        """The means, lists x the table's width."""
        size_N = torch.bincount(list_M, minlength=lists)
        total = F.embedding_bag(row_M, table, size_N.cumsum(0) - size_N, mode="sum")
        share_N1 = size_N.clamp(min=1).to(table.dtype).reciprocal().unsqueeze(1)
        ctx.save_for_backward(row_M, list_M, share_N1)
        ctx.shape = table.shape
        return total * share_N1

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """The table's gradient, sparse: a row for each entry."""
        row_M, list_M, share_N1 = ctx.saved_tensors
        values = (gradient * share_N1).index_select(0, list_M)
        return torch.sparse_coo_tensor(row_M[None], values, ctx.shape, check_invariants=False), None, None, None
