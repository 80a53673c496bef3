"""Adam for embedding tables that updates only the rows with a gradient.

Tensor names end in their shape:
    M: entries of a sparse gradient; each refers to a row of a table
    N: distinct rows
    D: width of a row
    L: values that are summed by row; several entries may refer to the same value
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_ctr.model.distributed.shared_memory import make_shared_zeros, share_tensor

ROWS_PER_CHUNK = 4096
"""Rows per chunk of an update on a CPU, small enough that intermediate results stay in its cache."""


class RowUpdate(NamedTuple):
    """The change of table rows in a step: distinct row indices (N) and differences (N x D)."""

    rows: Tensor
    difference: Tensor


class RowAdam(torch.optim.Optimizer):
    """Adam (§4.1) for tables with sparse gradients.

    Rows without a gradient, and their Adam moments, do not change. The cost of a step depends on the number of distinct
    ids in the batch, not on the size of the table. The moments of a row decay only in steps that update the row, but
    the bias correction counts all steps of the table.

    Args:
        tables: The embedding tables.
        lr: The learning rate.
        betas: The decay rates of the first and second moment.
        eps: The constant that is added to the denominator.

    Attributes:
        changes: The changes that the last step made to each table. A row occurs at most once.
    """

    def __init__(
        self, tables: Iterable[nn.Parameter], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(tables, {"lr": lr, "betas": betas, "eps": eps})
        self.changes: dict[nn.Parameter, list[RowUpdate]] = {}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every table that has a gradient; `closure` is ignored."""
        self.changes = {}
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self.changes[table] = self._update_table(table, group["lr"], group["betas"], group["eps"])

    def _update_table(self, table: nn.Parameter, lr: float, betas: tuple[float, float], eps: float) -> list[RowUpdate]:
        beta1, beta2 = betas
        state = self._get_state(table)
        state["step"] += 1
        assert table.grad is not None
        rows_N, gradient_ND = sum_by_row(table.grad)
        t = int(state["step"])
        rate = lr * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
        first, second = state["exp_avg"], state["exp_avg_sq"]
        changes: list[RowUpdate] = []
        for rows, gradient in zip(split_into_chunks(rows_N), split_into_chunks(gradient_ND), strict=True):
            mean = first.index_select(0, rows).lerp_(gradient, 1 - beta1)
            square = second.index_select(0, rows).lerp_(gradient.square(), 1 - beta2)
            first.index_copy_(0, rows, mean)
            second.index_copy_(0, rows, square)
            change = mean.div_(square.sqrt_().add_(eps)).mul_(-rate)
            table.index_copy_(0, rows, table.index_select(0, rows).add_(change))
            changes.append(RowUpdate(rows, change))
        return changes

    def _get_state(
        self, table: nn.Parameter, make_zeros: Callable[[Tensor], Tensor] = torch.zeros_like
    ) -> dict[str, Any]:
        """Return the state of a table; create it with moments from `make_zeros` if there is none."""
        state: dict[str, Any] = self.state[table]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.long)
            state["exp_avg"], state["exp_avg_sq"] = make_zeros(table), make_zeros(table)
        return state

    def share(self) -> None:
        """Move the Adam moments to memory that all processes share.

        All processes must call this with equal states. From then on, each process must update different rows.
        """
        for table in (table for group in self.param_groups for table in group["params"]):
            is_new = not self.state[table]
            state = self._get_state(table, lambda like: make_shared_zeros(like.shape, like.dtype))
            if not is_new:
                state |= {name: share_tensor(state[name]) for name in ("exp_avg", "exp_avg_sq")}


def split_into_chunks(x: Tensor) -> tuple[Tensor, ...]:
    """Split the rows of `x` into chunks of `ROWS_PER_CHUNK` rows on a CPU; on a GPU, return all rows as one chunk."""
    return torch.split(x, ROWS_PER_CHUNK) if x.device.type == "cpu" else (x,)


class GroupedRows(NamedTuple):
    """Entries grouped by the row that they refer to.

    Attributes:
        rows: The distinct rows in ascending order, N.
        order: The indices of the entries, sorted by row, M.
        start: The index in `order` at which the entries of each row start, N.
        size: The number of entries of each row, N.
    """

    rows: Tensor
    order: Tensor
    start: Tensor
    size: Tensor

    def compute_inverse(self) -> Tensor:
        """Return, for each entry, the position of its row in `rows`, (M,); like `return_inverse` of `torch.unique`."""
        index_N = torch.arange(len(self.rows), device=self.rows.device)
        return torch.empty_like(self.order).scatter_(0, self.order, index_N.repeat_interleave(self.size))

    def sum_entries(self, values_LD: Tensor, value_index_M: Tensor) -> Tensor:
        """Sum the values of the entries of each row.

        Args:
            values_LD: The values.
            value_index_M: The index of each entry's value.

        Returns:
            The sum for each of `rows`, N x D.
        """
        if values_LD.device.type == "cpu" and len(self.rows):
            return F.embedding_bag(value_index_M.index_select(0, self.order), values_LD, self.start, mode="sum")
        # On a GPU, embedding_bag uses few threads per sum, which is slow because a few rows have most of the entries.
        sum_ND = values_LD.new_zeros(len(self.rows), values_LD.shape[1])
        return sum_ND.index_add_(0, self.compute_inverse(), values_LD.index_select(0, value_index_M))


def group_rows(rows_M: Tensor, size: int) -> GroupedRows:
    """Group entries by row.

    Args:
        rows_M: The row that each entry refers to.
        size: The number of rows of the table.

    Returns:
        The entries grouped by row; entries of the same row keep their order.
    """
    keys_M = rows_M.int() if size <= torch.iinfo(torch.int32).max else rows_M  # int32 sorts in half the time
    sorted_M, order_M = keys_M.sort(stable=True)
    rows_N, size_N = torch.unique_consecutive(sorted_M, return_counts=True)
    return GroupedRows(rows_N.long(), order_M, size_N.cumsum(0) - size_N, size_N)


def sum_by_row(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the entries of a sparse gradient by row.

    Args:
        gradient: A sparse COO tensor with one sparse dimension.

    Returns:
        The distinct rows in ascending order (N), and the sum of the entries of each row (N x D).
    """
    rows_M, values_MD = gradient._indices()[0], gradient._values()
    # Check the rows themselves: autograd does not preserve the flag that a gradient is coalesced.
    if bool((rows_M[1:] > rows_M[:-1]).all()):
        return rows_M, values_MD
    groups = group_rows(rows_M, gradient.shape[0])
    return groups.rows, groups.sum_entries(values_MD, torch.arange(len(rows_M), device=rows_M.device))
