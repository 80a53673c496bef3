"""An exponential moving average (EMA) of the weights, for evaluation and export.

Step t updates the average a to d(t) * a + (1 - d(t)) * w, with the weights w and d(t) = min(decay, (1 + t) / (10 + t)).
The decay is smaller in early steps, so that the average quickly forgets the random initialization.

Dense parameters count the steps in which they have a gradient, so the average of a domain's parameters changes only in
steps on batches of that domain. Embedding tables count all steps. Their average equals a dense EMA over the whole
table, but is computed lazily: see `TableEma`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from star_ctr.model.distributed.process_group import barrier, get_rank_and_size
from star_ctr.model.distributed.shared_memory import share_tensor
from star_ctr.model.embeddings.row_adam import RowUpdate
from star_ctr.model.embeddings.tables import EmbeddingTables
from star_ctr.model.layers.per_domain import ParametersByDomain

BLOCK = 1 << 16
"""Number of table rows that `TableEma.flush` updates at a time."""


def compute_decay(step: int, decay: float) -> float:
    """Return the decay d(t) of step t, counted from 1."""
    return min(decay, (1 + step) / (10 + step))


def compute_log_decay(steps: Tensor, decay: float) -> Tensor:
    """Return the logarithm of d(1) * ... * d(t) for each t in `steps`, as float64.

    The result comes from a closed form. Unlike a running sum, it needs no state. A resumed run therefore computes the
    same bits.
    """
    # The first `warm` steps have the decay (1 + t) / (10 + t). Its product is 10! / ((t + 2) ... (t + 10)).
    warm = max(0, math.floor((10 * decay - 1) / (1 - decay)))
    t = steps.double()
    early = t.clamp(max=warm)
    product = early + 2
    for k in range(3, 11):
        product.mul_(early + k)
    late = (t - warm).clamp_(min=0)
    return late.mul_(math.log(decay)).sub_(product.log_()).add_(math.log(math.factorial(10)))


def compute_remaining_decay(last: Tensor, now: Tensor, decay: float) -> Tensor:
    """Return the product of the decays of all steps after `last` up to the current step.

    Args:
        last: Step numbers, one per table row.
        now: `compute_log_decay` of the current step.
        decay: Maximum decay.

    Returns:
        The products as float64, with the shape of `last`.
    """
    return now.sub(compute_log_decay(last, decay)).exp_()


class TableEma:
    """The EMA of an embedding table whose steps change few rows.

    While a row does not change, its lag (average minus weights) is multiplied by the decay of each step. The state of a
    row is therefore its lag as of its last change, and the step of that change. The cost of a step depends only on the
    number of rows that it changes. `flush` applies the outstanding decay to the whole table.

    Attributes:
        lag: Average minus weights of each row as of `last_step`, with the shape of the table.
        last_step: Step of the last change of each row.
    """

    def __init__(self, table: Tensor) -> None:
        self.lag = torch.zeros_like(table, requires_grad=False)
        self.last_step = torch.zeros(len(table), dtype=torch.int32, device=table.device)

    def update(self, changes: Iterable[RowUpdate], step: int, decay: float) -> None:
        """Update the EMA with the changes of a step.

        Args:
            changes: The changed rows and their differences. Each row may occur at most once.
            step: Number of the step, from 1.
            decay: Maximum decay.
        """
        # With a = w + lag: a' = d * (w + lag) + (1 - d) * (w + change), hence lag' = d * (lag - change).
        d, now = compute_decay(step, decay), compute_log_decay(torch.tensor(step), decay)
        for rows, change in changes:
            share = compute_remaining_decay(self.last_step.index_select(0, rows), now, decay).to(change.dtype)
            lag = self.lag.index_select(0, rows).mul_(share.unsqueeze(1)).sub_(change, alpha=d)
            self.lag.index_copy_(0, rows, lag)
            self.last_step.index_fill_(0, rows, step)

    def apply_pending_decay(self, step: int, decay: float) -> None:
        """Apply the outstanding decay to all lags, so that later steps can use another decay.

        Args:
            step: Number of the last step.
            decay: Maximum decay of the steps so far.
        """
        now = compute_log_decay(torch.tensor(step), decay)
        self.lag.mul_(compute_remaining_decay(self.last_step, now, decay).to(self.lag.dtype).unsqueeze(1))
        self.last_step.fill_(step)

    def flush(self, table: Tensor, step: int, decay: float, part: slice = slice(None)) -> None:
        """Replace the weights of a table by their average, and reset the lag.

        Args:
            table: The embedding table.
            step: Number of the last step.
            decay: Maximum decay.
            part: Rows to replace.
        """
        now = compute_log_decay(torch.tensor(step), decay)
        blocks = (torch.split(x[part], BLOCK) for x in (table, self.lag, self.last_step))
        for weight, lag, last in zip(*blocks, strict=True):
            weight.add_(lag.mul_(compute_remaining_decay(last, now, decay).to(lag.dtype).unsqueeze(1)))
            lag.zero_()


class WeightEma:
    """The EMA of all weights of a model.

    Attributes:
        decay: Maximum decay; if it is 0, there is no EMA and no state.
        parameters: Names and parameters of the model.
        tables: EMA of each embedding table by name.
        weights: Average of each dense parameter by name.
        steps: Number of steps of each parameter by name.
    """

    def __init__(self, model: nn.Module, tables: EmbeddingTables, decay: float) -> None:
        self.decay = decay
        self.parameters = list(model.named_parameters()) if decay else []
        self._by_domain = ParametersByDomain(model)
        embeddings = set(tables.parameters())
        self.tables = {n: TableEma(p) for n, p in self.parameters if p in embeddings}
        self.weights = {n: p.detach().clone() for n, p in self.parameters if p not in embeddings}
        self.steps = {n: 0 for n, _ in self.parameters}
        self._shared = False

    def share(self) -> None:
        """Move the state of the tables to shared memory; all processes must call this with equal states."""
        for table in self.tables.values():
            table.lag, table.last_step = share_tensor(table.lag), share_tensor(table.last_step)
        self._shared = True

    @torch.no_grad()
    def update(
        self, changes: Mapping[nn.Parameter, Iterable[RowUpdate]], domains: Collection[int] | None = None
    ) -> None:
        """Update the EMA after an optimizer step and before the gradients are cleared.

        Args:
            changes: For each embedding table, the rows that this process changed.
            domains: Domains of the step; None: any domain may have gradients.
        """
        for name, parameter in self._by_domain.select(domains) if self.decay else ():
            if (table := self.tables.get(name)) is not None:
                self.steps[name] += 1
                table.update(changes.get(parameter, ()), self.steps[name], self.decay)
            elif parameter.grad is not None:
                self.steps[name] += 1
                self.weights[name].lerp_(parameter, 1.0 - compute_decay(self.steps[name], self.decay))

    @torch.no_grad()
    def swap_in(self) -> None:
        """Replace the weights of the model by their averages; all processes must call this.

        If the processes share the tables, each replaces a range of rows.
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
            origin: For each parameter, its name in `tensors`, or None if it has no state there. The average of a
                parameter without a complete state starts from the weights of the model. By default, names are
                unchanged.
            decay: The decay that the state was computed with. By default, the decay of this EMA.
        """
        for name, parameter in self.parameters:
            source = origin[name] if origin is not None else name
            self.steps[name] = 0
            state = {key: tensors.get(f"{source}/{key}") for key in ("steps", "weight", "lag", "last_step")}
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
                table.apply_pending_decay(self.steps[name], decay)


def compute_averages(weights: Mapping[str, Tensor], state: Mapping[str, Tensor], decay: float) -> dict[str, Tensor]:
    """Compute averaged weights from the tensors of a checkpoint.

    Args:
        weights: Weights by parameter name.
        state: The result of `WeightEma.state_dict`.
        decay: Maximum decay that the state was computed with.

    Returns:
        The average of each parameter with a state, by name.
    """
    averages: dict[str, Tensor] = {}
    for key, value in state.items():
        name, _, kind = key.rpartition("/")
        if kind == "weight":
            averages[name] = value
        elif kind == "lag":
            now = compute_log_decay(state[f"{name}/steps"].cpu(), decay)
            share = compute_remaining_decay(state[f"{name}/last_step"], now, decay)
            averages[name] = weights[name] + value * share.to(value.dtype).unsqueeze(1)
    return averages
