"""Adam on embedding tables, for the rows that a step touches and for no others.

Tensor names end in their shape: M entries of a batch, each a look into a row of a table; N distinct rows; D the rows'
width; L what the entries' gradients are taken from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_ctr.model.distributed.shared_memory import make_shared_zeros, share_tensor

AT_ONCE = 4096
"""Rows that are updated at a time on a CPU: what lies between the operations then stays in its cache."""


class RowUpdate(NamedTuple):
    """The change of table rows in a step: distinct row indices (N) and differences (N x D)."""

    rows: Tensor
    difference: Tensor


class RowAdam(torch.optim.Optimizer):
    """Adam (§4.1) of tables with sparse gradients: rows without a gradient, and their moments, stay as they are.

    A step costs by the distinct ids of a batch, however many rows a table has. The moments of a row decay at its own
    steps alone; the bias correction counts the table's.
    """

    def __init__(
        self, tables: Iterable[nn.Parameter], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(tables, {"lr": lr, "betas": betas, "eps": eps})
        self.changes: dict[nn.Parameter, list[RowUpdate]] = {}
        """The changes of the last step in each table, without duplicate rows."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step on every table that has a gradient."""
        self.changes = {}
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self.changes[table] = self._step(table, group["lr"], group["betas"], group["eps"])

    def _step(self, table: nn.Parameter, lr: float, betas: tuple[float, float], eps: float) -> list[RowUpdate]:
        beta1, beta2 = betas
        state = self._get_state(table)
        state["step"] += 1
        assert table.grad is not None
        rows_N, gradient_ND = sum_by_row(table.grad)
        t = int(state["step"])
        rate = lr * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
        first, second = state["exp_avg"], state["exp_avg_sq"]
        changes: list[RowUpdate] = []
        for rows, gradient in zip(split_into_parts(rows_N), split_into_parts(gradient_ND), strict=True):
            mean = first.index_select(0, rows).lerp_(gradient, 1 - beta1)
            square = second.index_select(0, rows).lerp_(gradient.square(), 1 - beta2)
            first.index_copy_(0, rows, mean)
            second.index_copy_(0, rows, square)
            change = mean.div_(square.sqrt_().add_(eps)).mul_(-rate)
            table.index_copy_(0, rows, table.index_select(0, rows).add_(change))
            changes.append(RowUpdate(rows, change))
        return changes

    def _get_state(self, table: nn.Parameter, zeros: Callable[[Tensor], Tensor] = torch.zeros_like) -> dict[str, Any]:
        state: dict[str, Any] = self.state[table]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.long)
            state["exp_avg"], state["exp_avg_sq"] = zeros(table), zeros(table)
        return state

    def share(self) -> None:
        """Have the moments in common with the other processes, which stand alike and update rows of their own each."""
        for table in (table for group in self.param_groups for table in group["params"]):
            fresh = not self.state[table]
            state = self._get_state(table, lambda like: make_shared_zeros(like.shape, like.dtype))
            if not fresh:
                state |= {name: share_tensor(state[name]) for name in ("exp_avg", "exp_avg_sq")}


def split_into_parts(x: Tensor) -> tuple[Tensor, ...]:
    """The rows of `x`, so many at a time as are best updated together: on a GPU all of them."""
    return torch.split(x, AT_ONCE) if x.device.type == "cpu" else (x,)


class GroupedRows(NamedTuple):
    """Entries by the row that they look into: in `order` (M), those of row rows[n] are size[n] from start[n] on (N)."""

    rows: Tensor
    order: Tensor
    start: Tensor
    size: Tensor

    def places(self) -> Tensor:
        """The place of each entry's row among the distinct ones (M)."""
        number_N = torch.arange(len(self.rows), device=self.rows.device)
        return torch.empty_like(self.order).scatter_(0, self.order, number_N.repeat_interleave(self.size))

    def sum_entries(self, values_LD: Tensor, of_M: Tensor) -> Tensor:
        """For each distinct row the sum of its entries' values (N x D); entry m has values_LD[of_M[m]]."""
        if values_LD.device.type == "cpu" and len(self.rows):
            return F.embedding_bag(of_M.index_select(0, self.order), values_LD, self.start, mode="sum")
        # A GPU takes a sum for itself with few threads, and some rows have most of the entries.
        sum_ND = values_LD.new_zeros(len(self.rows), values_LD.shape[1])
        return sum_ND.index_add_(0, self.places(), values_LD.index_select(0, of_M))


def group_rows(rows_M: Tensor, size: int) -> GroupedRows:
    """Entries that look into these rows of a table of that size, grouped; rows ascend."""
    short = rows_M.int() if size <= torch.iinfo(torch.int32).max else rows_M  # sorted in half the time
    sorted_M, order_M = short.sort(stable=True)
    rows_N, size_N = torch.unique_consecutive(sorted_M, return_counts=True)
    return GroupedRows(rows_N.long(), order_M, size_N.cumsum(0) - size_N, size_N)


def sum_by_row(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The rows (N) of a sparse gradient, each once, and the sum of what it holds for each (N x D)."""
    rows_M, values_MD = gradient._indices()[0], gradient._values()
    if bool((rows_M[1:] > rows_M[:-1]).all()):  # autograd forgets that a gradient was coalesced
        return rows_M, values_MD
    groups = group_rows(rows_M, gradient.shape[0])
    return groups.rows, groups.sum_entries(values_MD, torch.arange(len(rows_M), device=rows_M.device))
