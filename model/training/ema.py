"""An exponential moving average (EMA) of the weights, for evaluation and export.

Step t updates the average a to d(t) * a + (1 - d(t)) * w, with d(t) = min(decay, (1 + t) / (10 + t)). The decay is
smaller early on, so that the average quickly forgets the random initialization.

Dense parameters count the steps in which they have a gradient, so the average of a domain's parameters changes only in
steps on batches of that domain. Embedding tables count all steps. Their average equals a dense EMA over the whole
table, but is computed lazily: see `TableEma`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from star_ctr.model.distributed.process_group import barrier, get_rank_and_size
from star_ctr.model.distributed.shared_memory import share_tensor
from star_ctr.model.embeddings.row_adam import RowUpdate
from star_ctr.model.embeddings.tables import EmbeddingTables

BLOCK = 1 << 16
"""Table rows per block of a flush."""


def compute_decay(step: int, decay: float) -> float:
    """Return the decay d(t) of step t; the first step is 1."""
    return min(decay, (1 + step) / (10 + step))


def compute_log_decay(steps: Tensor, decay: float) -> Tensor:
    """Return the logarithm of d(1) * ... * d(t) for each t in `steps`, as float64.

    Uses a closed form instead of a running sum: it needs no state, so a resumed run computes the same bits.
    """
    # The first `warm` steps have the decay (1 + t) / (10 + t), whose product is 10! / ((t + 2) ... (t + 10)).
    warm = max(0, math.floor((10 * decay - 1) / (1 - decay)))
    t = steps.double()
    early = t.clamp(max=warm)
    product = early + 2
    for k in range(3, 11):
        product.mul_(early + k)
    late = (t - warm).clamp_(min=0)
    return late.mul_(math.log(decay)).sub_(product.log_()).add_(math.log(math.factorial(10)))


def compute_remaining_decay(last: Tensor, now: Tensor, decay: float) -> Tensor:
    """Return the product of the decays of the steps after `last`, elementwise, as float64.

    The last step of the product is the one whose `compute_log_decay` is `now`.
    """
    return now.sub(compute_log_decay(last, decay)).exp_()


class TableEma:
    """The EMA of an embedding table whose steps change few rows.

    While a row does not change, the lag (its average minus its weights) shrinks by each step's decay. The state per row
    is therefore only the lag as of the row's last change, and the step of that change, and the cost of a step depends
    only on the rows that it changes. `flush` applies the outstanding decay to the whole table.
    """

    def __init__(self, table: Tensor) -> None:
        self.lag = torch.zeros_like(table, requires_grad=False)
        self.last_step = torch.zeros(len(table), dtype=torch.int32, device=table.device)

    def update(self, changes: Iterable[RowUpdate], step: int, decay: float) -> None:
        """Update the EMA with the changes of a step; each row may occur at most once."""
        # With a = w + lag: a' = d * (w + lag) + (1 - d) * (w + change), hence lag' = d * (lag - change).
        d, now = compute_decay(step, decay), compute_log_decay(torch.tensor(step), decay)
        for rows, change in changes:
            share = compute_remaining_decay(self.last_step.index_select(0, rows), now, decay).to(change.dtype)
            lag = self.lag.index_select(0, rows).mul_(share.unsqueeze(1)).sub_(change, alpha=d)
            self.lag.index_copy_(0, rows, lag)
            self.last_step.index_fill_(0, rows, step)

    def settle(self, step: int, decay: float) -> None:
        """Apply the outstanding decay to all lags, so that they are as of `step`; later steps may use another decay."""
        now = compute_log_decay(torch.tensor(step), decay)
        self.lag.mul_(compute_remaining_decay(self.last_step, now, decay).to(self.lag.dtype).unsqueeze(1))
        self.last_step.fill_(step)

    def flush(self, table: Tensor, step: int, decay: float, part: slice = slice(None)) -> None:
        """Replace `table`, or a slice of its rows, by the average as of `step`, and reset the lag."""
        now = compute_log_decay(torch.tensor(step), decay)
        blocks = (torch.split(x[part], BLOCK) for x in (table, self.lag, self.last_step))
        for weight, lag, last in zip(*blocks, strict=True):
            weight.add_(lag.mul_(compute_remaining_decay(last, now, decay).to(lag.dtype).unsqueeze(1)))
            lag.zero_()


class WeightEma:
    """The EMA of a model's weights; has no state if the decay is 0."""

    def __init__(self, model: nn.Module, tables: EmbeddingTables, decay: float) -> None:
        self.decay = decay
        self.parameters = list(model.named_parameters()) if decay else []
        embeddings = set(tables.parameters())
        self.tables = {n: TableEma(p) for n, p in self.parameters if p in embeddings}
        self.weights = {n: p.detach().clone() for n, p in self.parameters if p not in embeddings}
        self.steps = {n: 0 for n, _ in self.parameters}
        self._shared = False

    def share(self) -> None:
        """Move the state of the tables to shared memory; call this in all processes, with equal states."""
        for table in self.tables.values():
            table.lag, table.last_step = share_tensor(table.lag), share_tensor(table.last_step)
        self._shared = True

    @torch.no_grad()
    def update(self, changes: Mapping[nn.Parameter, Iterable[RowUpdate]]) -> None:
        """Update the EMA after an optimizer step; call this before gradients are cleared.

        Args:
            changes: For each embedding table, the rows that this process changed.
        """
        for name, parameter in self.parameters:
            if (table := self.tables.get(name)) is not None:
                self.steps[name] += 1
                table.update(changes.get(parameter, ()), self.steps[name], self.decay)
            elif parameter.grad is not None:
                self.steps[name] += 1
                self.weights[name].lerp_(parameter, 1.0 - compute_decay(self.steps[name], self.decay))

    @torch.no_grad()
    def swap_in(self) -> None:
        """Replace the model's weights by their averages; call this in all processes.

        If processes share the tables, each flushes a range of the rows.
        """
        rank, processes = get_rank_and_size() if self._shared else (0, 1)
        for name, parameter in self.parameters:
            if (table := self.tables.get(name)) is not None:
                rows = len(parameter)
                part = slice(rows * rank // processes, rows * (rank + 1) // processes)
                table.flush(parameter, self.steps[name], self.decay, part)
            else:
                parameter.copy_(self.weights[name])
        if self._shared:
            barrier()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state by name, for a checkpoint."""
        state: dict[str, Tensor] = {}
        for name, _ in self.parameters:
            state[f"{name}/steps"] = torch.tensor(self.steps[name])
            if (table := self.tables.get(name)) is not None:
                state[f"{name}/lag"] = table.lag
                state[f"{name}/last_step"] = table.last_step
            else:
                state[f"{name}/weight"] = self.weights[name]
        return state

    def load_state_dict(
        self,
        tensors: Mapping[str, Tensor],
        origin: Mapping[str, str | None] | None = None,
        decay: float | None = None,
    ) -> None:
        """Load the state that `state_dict` returned.

        Args:
            tensors: The state by name.
            origin: The names of renamed parameters in `tensors`, or None for parameters without state. The average of
                those, and of parameters with incomplete state, starts from the model's weights.
            decay: The decay that the state was computed with; this EMA's own if not given.
        """
        for name, parameter in self.parameters:
            before = origin[name] if origin is not None else name
            self.steps[name] = 0
            state = {key: tensors.get(f"{before}/{key}") for key in ("steps", "weight", "lag", "last_step")}
            if (table := self.tables.get(name)) is not None:
                if state["lag"] is None or state["last_step"] is None:
                    self.tables[name] = TableEma(parameter)
                    continue
                table.lag, table.last_step = state["lag"], state["last_step"]
            else:
                weight = state["weight"]
                self.weights[name] = parameter.detach().clone() if weight is None else weight
                if weight is None:
                    continue
            if state["steps"] is not None:
                self.steps[name] = int(state["steps"])
            if table is not None and decay is not None and decay != self.decay:
                table.settle(self.steps[name], decay)


def compute_averages(weights: Mapping[str, Tensor], state: Mapping[str, Tensor], decay: float) -> dict[str, Tensor]:
    """Compute the averages by parameter from a checkpoint's weights and `WeightEma.state_dict`."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        name, _, kind = key.rpartition("/")
        if kind == "weight":
            found[name] = value
        elif kind == "lag":
            now = compute_log_decay(state[f"{name}/steps"].cpu(), decay)
            share = compute_remaining_decay(state[f"{name}/last_step"], now, decay)
            found[name] = weights[name] + value * share.to(value.dtype).unsqueeze(1)
    return found
