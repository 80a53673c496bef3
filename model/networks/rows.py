"""Adam on embedding tables, for the rows that a step touches and for no others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

MARKED = 4
"""Rows of a table for each id of a batch up to which its rows are marked rather than the ids sorted."""


class RowAdam(torch.optim.Optimizer):
    """Adam (§4.1) of tables with sparse gradients: rows without a gradient, and their moments, stay as they are.

    A step costs by the distinct ids of a batch, however many rows a table has. The moments of a row decay at its own
    steps alone; the bias correction counts the table's.
    """

    def __init__(
        self, tables: Iterable[nn.Parameter], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(tables, {"lr": lr, "betas": betas, "eps": eps})
        self.touched: dict[nn.Parameter, Tensor] = {}
        """The rows of each table that the last step changed, each once."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step on every table that has a gradient."""
        self.touched = {}
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self.touched[table] = self._step(table, group["lr"], group["betas"], group["eps"])

    def _step(self, table: nn.Parameter, lr: float, betas: tuple[float, float], eps: float) -> Tensor:
        beta1, beta2 = betas
        state = self.state[table]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.long)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
        state["step"] += 1
        assert table.grad is not None
        rows_N, gradient_ND = summed_by_row(table.grad)
        first_ND = state["exp_avg"].index_select(0, rows_N).lerp_(gradient_ND, 1 - beta1)
        second_ND = state["exp_avg_sq"].index_select(0, rows_N).lerp_(gradient_ND.square(), 1 - beta2)
        state["exp_avg"].index_copy_(0, rows_N, first_ND)
        state["exp_avg_sq"].index_copy_(0, rows_N, second_ND)
        t = int(state["step"])
        rate = lr * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
        table.index_add_(0, rows_N, first_ND / (second_ND.sqrt_() + eps), alpha=-rate)
        return rows_N


def summed_by_row(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The rows (N) of a sparse gradient, each once, and the sum of what it holds for each (N x D)."""
    rows_M, values_MD = gradient._indices()[0], gradient._values()
    if gradient.is_coalesced():
        return rows_M, values_MD
    rows_N, place_M = distinct(rows_M, gradient.shape[0])
    summed_ND = torch.zeros(len(rows_N), values_MD.shape[1], dtype=values_MD.dtype, device=values_MD.device)
    return rows_N, summed_ND.index_add_(0, place_M, values_MD)


def distinct(rows_M: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The rows of a table of that size, each once and in order (N), and the place of each given one among them (M).

    A mark on every row of the table is cheaper than sorting what is given, as long as the table is not much larger.
    """
    if size > MARKED * len(rows_M):
        rows_N, place_M = torch.unique(rows_M, return_inverse=True)
        return rows_N, place_M
    marks = torch.zeros(size, dtype=torch.bool, device=rows_M.device)
    marks.index_fill_(0, rows_M, True)
    place = marks.cumsum(0)
    return marks.nonzero().squeeze(1), place.index_select(0, rows_M) - 1
