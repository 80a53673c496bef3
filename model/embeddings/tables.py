"""Embedding tables stored together by width, and the lookup of all ids of a row in one operation.

Tensor names end in their shape:
    B: rows of the batch
    I: integers of an encoded row
    M: ids of the batch that are not padding
    K: lists of ids of the batch (B times the lists per row)
    N: distinct table rows of the batch
    D: width of the embeddings
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from star_ctr.conf.contracts.encoded_row import PADDING
from star_ctr.model.embeddings.row_adam import GroupedRows, group_rows
from star_ctr.model.embeddings.sharding import WHOLE_PART, count_rows_of_part, fetch_rows, gather_storage

ROWS_PER_SEED = 1 << 16
"""Rows per seed in the initialization."""


def compute_offsets(sizes: Mapping[str, int], widths: Mapping[str, int]) -> tuple[dict[str, int], dict[int, int]]:
    """Assign the rows of tables to storages; tables of the same width share a storage.

    Args:
        sizes: The number of rows of each table, including its padding row.
        widths: The width of each table.

    Returns:
        The offset of each table, which is added to an id to get its row in the storage, and the number of rows of the
        storage of each width. The padding row of all tables of a storage is its row 0.
    """
    offset: dict[str, int] = {}
    rows: dict[int, int] = {}
    for name, size in sizes.items():
        offset[name] = rows.get(widths[name], 1) - 1
        rows[widths[name]] = offset[name] + size
    return offset, rows


class EmbeddingTables(nn.Module):
    """The embedding tables that all domains share (§3.1), with one storage for all tables of the same width.

    A batch then needs one lookup, one sparse gradient and one update per width. One storage per table would require
    about twenty small ones. The rows of a storage may be sharded over the processes of a training run, see `sharding`.

    Row 0 of a storage is the padding row of all its tables and remains 0. The ids of a table, from 1 on, are in
    consecutive rows: the row of an id is the id plus the table's offset.

    Args:
        sizes: The number of rows of each table, including its padding row.
        widths: The width of each table.
        part: (rank, parts): the part of the rows that this process holds.

    Attributes:
        sizes: The number of rows of each table, including its padding row.
        widths: The width of each table.
        part: (rank, parts).
        offset: The offset of each table in its storage.
        rows: The number of rows of the storage of each width, over all parts.
        storages: The rows that this process holds, by width.
    """

    def __init__(self, sizes: Mapping[str, int], widths: Mapping[str, int], part: tuple[int, int] = WHOLE_PART) -> None:
        super().__init__()
        self.widths, self.sizes, self.part = dict(widths), dict(sizes), part
        self.offset, self.rows = compute_offsets(sizes, widths)
        self.storages = nn.ParameterDict(
            {str(w): nn.Parameter(torch.empty(count_rows_of_part(n, part), w)) for w, n in self.rows.items()}
        )
        for width, storage in self.storages.items():
            if not storage.is_meta:
                self._init_storage(storage, self.rows[int(width)])

    @torch.no_grad()
    def _init_storage(self, storage: Tensor, rows: int) -> None:
        """Draw the embeddings in blocks, each from a separate seed.

        All parts draw the same blocks, so the embeddings do not depend on the number of parts. A process needs memory
        for its part and one block.
        """
        rank, parts = self.part
        for number, start in enumerate(range(0, rows, ROWS_PER_SEED)):
            seed = hash((torch.initial_seed(), storage.shape[1], number)) % (1 << 62)
            block = torch.empty(min(ROWS_PER_SEED, rows - start), storage.shape[1], dtype=storage.dtype, device="cpu")
            block.normal_(std=0.01, generator=torch.Generator().manual_seed(seed))
            first = (rank - start) % parts
            part_rows = block[first::parts]
            index = (start + first) // parts
            storage[index : index + len(part_rows)] = part_rows
        if rank == 0:
            storage[PADDING].zero_()

    @property
    def sharded(self) -> bool:
        """Whether the rows are sharded over several processes."""
        return self.part[1] > 1

    def copy_table(self, name: str) -> Tensor:
        """Return a copy of a table, with the padding row first, so that ids are row numbers.

        The tables must not be sharded.
        """
        storage, first = self.storages[str(self.widths[name])], self.offset[name] + 1
        return torch.cat([storage[:1], storage[first : first + self.sizes[name] - 1]])

    def gather_rows(self, width: int | str, rows: Tensor) -> tuple[Tensor, Tensor, GroupedRows | None]:
        """Return a tensor that contains the given rows of a storage.

        If the tables are sharded, all processes must call this.

        Args:
            width: The width of the storage.
            rows: Row numbers of the storage, in any shape.

        Returns:
            A table, the index of each of `rows` in it (in the shape of `rows`), and a grouping. If the tables are not
            sharded, the table is the storage itself and the grouping is None. Otherwise, the table has the distinct
            rows in ascending order, fetched from the processes that hold them, and the grouping maps `rows` to them.
        """
        storage = self.storages[str(width)]
        if not self.sharded:
            return storage, rows, None
        groups = group_rows(rows.flatten(), self.rows[int(width)])
        return fetch_rows(storage, groups.rows, self.part), groups.compute_inverse().view(rows.shape), groups

    def embed(self, name: str, ids: Tensor) -> Tensor:
        """Return the embedding of each id.

        If the tables are sharded, all processes must call this.

        Args:
            name: The name of the table.
            ids: Ids of the table, in any shape.

        Returns:
            The embeddings, in the shape of `ids` with the width as an additional last dimension; zeros for padding ids.
        """
        rows = (ids.long() + self.offset[name]).masked_fill_(ids == PADDING, PADDING)
        table, index, _ = self.gather_rows(self.widths[name], rows)
        if self.sharded:
            return F.embedding(index, table)
        return F.embedding(index, table, padding_idx=PADDING, sparse=torch.is_grad_enabled())

    @torch.no_grad()
    def gather(self) -> None:
        """Gather the rows of sharded tables in the first process; the tables of the others must not be used afterwards.

        If the tables are sharded, all processes must call this.
        """
        if not self.sharded:
            return
        for width, storage in self.storages.items():
            if (whole := gather_storage(storage.detach(), self.rows[int(width)], self.part)) is not None:
                storage.data = whole
        self.part = WHOLE_PART


class MeanLookup(nn.Module):
    """The lookup of lists of ids in the tables of one width; returns the mean of the embeddings of each list.

    A single id is a list of length 1. Padding is not part of the mean. The mean of a list without ids is 0.

    Args:
        lists: For each list, the index of its first id among the integers of an encoded row, its length, and the offset
            of its table.
    """

    column: Tensor
    offset: Tensor
    list: Tensor

    def __init__(self, lists: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        self.lists = len(lists)
        list_index = [k for k, (_, length, _) in enumerate(lists) for _ in range(length)]
        column = [start + i for start, length, _ in lists for i in range(length)]
        offset = [offset for _, length, offset in lists for _ in range(length)]
        for name, values in (("column", column), ("offset", offset), ("list", list_index)):
            # Allocate on the CPU also if the model is created on the meta device: these are constants, which are not
            # stored with the weights.
            self.register_buffer(name, torch.tensor(values, dtype=torch.long, device="cpu"), persistent=False)

    def forward(self, tables: EmbeddingTables, width: int | str, ints_BI: Tensor) -> Tensor:
        """Look up the lists of each row.

        Args:
            tables: The embedding tables.
            width: The width of the tables that the lists use.
            ints_BI: The integers of the encoded rows.

        Returns:
            The mean of each list, B x lists x D.
        """
        ids = ints_BI.index_select(1, self.column).flatten()
        index_M = ids.nonzero().squeeze(1)  # PADDING is 0
        row_M = torch.div(index_M, len(self.column), rounding_mode="floor")
        column_M = index_M - row_M * len(self.column)
        id_M = ids.index_select(0, index_M) + self.offset.index_select(0, column_M)
        list_M = row_M * self.lists + self.list.index_select(0, column_M)
        table, table_row_M, groups = tables.gather_rows(width, id_M)
        lists = len(ints_BI) * self.lists
        mean_KD: Tensor = _ListMeans.apply(table, table_row_M, list_M, lists, groups)  # type: ignore[no-untyped-call]
        return mean_KD.view(len(ints_BI), self.lists, table.shape[1])


class _ListMeans(torch.autograd.Function):
    """The mean of table rows by list.

    `embedding_bag` with a `padding_idx` computes the same, but not with its fast kernel, and its backward pass
    processes the padding again.
    """

    @staticmethod
    def forward(
        ctx: Any, table: Tensor, row_M: Tensor, list_M: Tensor, lists: int, groups: GroupedRows | None
    ) -> Tensor:
        """Compute the means.

        Args:
            ctx: The context of the operation.
            table: The table.
            row_M: The table row of each entry.
            list_M: The list of each entry, in ascending order.
            lists: K.
            groups: The entries grouped by row if `table` contains only the rows of the batch; otherwise None.

        Returns:
            The means, K x D.
        """
        size_K = torch.bincount(list_M, minlength=lists)
        sum_KD = F.embedding_bag(row_M, table, size_K.cumsum(0) - size_K, mode="sum")
        share_K1 = size_K.clamp(min=1).to(table.dtype).reciprocal().unsqueeze(1)
        ctx.save_for_backward(row_M, list_M, share_K1)
        ctx.shape, ctx.groups = table.shape, groups
        return sum_KD * share_K1

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_KD: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Return the gradient of the table: dense if it contains only the rows of the batch, otherwise sparse."""
        row_M, list_M, share_K1 = ctx.saved_tensors
        groups = ctx.groups or group_rows(row_M, ctx.shape[0])
        sum_ND = groups.sum_entries(gradient_KD * share_K1, list_M)
        if ctx.groups is None:
            table_gradient = torch.sparse_coo_tensor(
                groups.rows[None], sum_ND, ctx.shape, check_invariants=False, is_coalesced=True
            )
        else:
            table_gradient = sum_ND
        return table_gradient, None, None, None, None
