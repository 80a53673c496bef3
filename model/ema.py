"""An exponential moving average (EMA) of the weights, evaluated in their place.

At step t the average takes the share 1 - d(t) of the weights, with d(t) = min(decay, (1 + t) / (10 + t)): early on the
decay is smaller, so that the average forgets the random start.

Dense parameters count the steps in which they have a gradient. What belongs to one domain therefore changes only by
steps on batches of that domain. Embedding tables count all steps, and their average is that of a dense EMA over the
whole table, computed lazily: see `TableEma`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from star_ctr.model.networks.rows import Change
from star_ctr.model.networks.tables import EmbeddingTables
from star_ctr.model.processes import wait_for_all, world
from star_ctr.model.shared_memory import in_common

BLOCK = 1 << 16
"""Rows of a table that are flushed at a time."""


def decay_at(step: int, decay: float) -> float:
    """The decay d(t) of step t; the first step is 1."""
    return min(decay, (1 + step) / (10 + step))


def log_decay(steps: Tensor, decay: float) -> Tensor:
    """The logarithm of d(1) * ... * d(t) for each t of `steps`, as float64.

    A closed form and not a running sum: it needs no state, so that a resumed run computes the same bits.
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


def remaining(last: Tensor, now: Tensor, decay: float) -> Tensor:
    """The product of the decays of the steps after `last`, for each of `last`, as float64.

    It goes up to the step whose `log_decay` is `now`.
    """
    return now.sub(log_decay(last, decay)).exp_()


class TableEma:
    """The EMA of an embedding table in which a step changes few rows.

    While a row stays the same, the difference of its average to it shrinks by each step's decay. It is therefore
    enough to keep that difference, the lag, as of the row's last change, and the step of that change: a step costs by
    the rows that it changes. `flush` brings the whole table up to date.
    """

    def __init__(self, table: Tensor) -> None:
        self.lag = torch.zeros_like(table, requires_grad=False)
        self.last_step = torch.zeros(len(table), dtype=torch.int32, device=table.device)

    def update(self, changes: Iterable[Change], step: int, decay: float) -> None:
        """Follow the changes of a step; no row may occur twice."""
        # With a = w + lag: a' = d * (w + lag) + (1 - d) * (w + change), hence lag' = d * (lag - change).
        d, now = decay_at(step, decay), log_decay(torch.tensor(step), decay)
        for rows, change in changes:
            share = remaining(self.last_step.index_select(0, rows), now, decay).to(change.dtype)
            lag = self.lag.index_select(0, rows).mul_(share.unsqueeze(1)).sub_(change, alpha=d)
            self.lag.index_copy_(0, rows, lag)
            self.last_step.index_fill_(0, rows, step)

    def flush(self, table: Tensor, step: int, decay: float, part: slice = slice(None)) -> None:
        """Replace `table`, or a part of its rows, by the average as of `step`; no lag is left."""
        now = log_decay(torch.tensor(step), decay)
        blocks = (torch.split(x[part], BLOCK) for x in (table, self.lag, self.last_step))
        for weight, lag, last in zip(*blocks, strict=True):
            weight.add_(lag.mul_(remaining(last, now, decay).to(lag.dtype).unsqueeze(1)))
            lag.zero_()


class WeightEma:
    """The EMA of a model's weights; without any state if the decay is 0."""

    def __init__(self, model: nn.Module, tables: EmbeddingTables, decay: float) -> None:
        self.decay = decay
        self.parameters = list(model.named_parameters()) if decay else []
        embeddings = set(tables.parameters())
        self.tables = {n: TableEma(p) for n, p in self.parameters if p in embeddings}
        self.weights = {n: p.detach().clone() for n, p in self.parameters if p not in embeddings}
        self.steps = {n: 0 for n, _ in self.parameters}
        self._shared = False

    def share(self) -> None:
        """Put the state of the tables into memory that all processes share; all call this, with equal states."""
        for table in self.tables.values():
            table.lag, table.last_step = in_common(table.lag), in_common(table.last_step)
        self._shared = True

    @torch.no_grad()
    def update(self, changes: Mapping[nn.Parameter, Iterable[Change]]) -> None:
        """Follow the step that the optimizers just made; call this while the gradients are still there.

        Args:
            changes: For each embedding table, the rows that this process changed.
        """
        for name, parameter in self.parameters:
            if (table := self.tables.get(name)) is not None:
                self.steps[name] += 1
                table.update(changes.get(parameter, ()), self.steps[name], self.decay)
            elif parameter.grad is not None:
                self.steps[name] += 1
                self.weights[name].lerp_(parameter, 1.0 - decay_at(self.steps[name], self.decay))

    @torch.no_grad()
    def swap_in(self) -> None:
        """Replace the model's weights by their averages; all processes call this.

        Processes that share the tables flush a range of the rows each.
        """
        rank, processes = world() if self._shared else (0, 1)
        for name, parameter in self.parameters:
            if (table := self.tables.get(name)) is not None:
                rows = len(parameter)
                part = slice(rows * rank // processes, rows * (rank + 1) // processes)
                table.flush(parameter, self.steps[name], self.decay, part)
            else:
                parameter.copy_(self.weights[name])
        if self._shared:
            wait_for_all()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The state by name, for a checkpoint."""
        for name, _ in self.parameters:
            yield f"{name}/steps", torch.tensor(self.steps[name])
            if (table := self.tables.get(name)) is not None:
                yield f"{name}/lag", table.lag
                yield f"{name}/last_step", table.last_step
            else:
                yield f"{name}/weight", self.weights[name]

    def load(self, tensors: Mapping[str, Tensor], origin: Mapping[str, str | None] | None = None) -> None:
        """Take over the state that `tensors` returned.

        Args:
            tensors: The state by name.
            origin: The name that a parameter has in `tensors`, where it is another; None if it has no state there.
                Such parameters, and those whose state is incomplete, start with the model's weights as their average.
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


def averages(weights: Mapping[str, Tensor], state: Mapping[str, Tensor], decay: float) -> dict[str, Tensor]:
    """The averages by parameter, from a checkpoint's weights and the state that `WeightEma.tensors` returned."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        name, _, kind = key.rpartition("/")
        if kind == "weight":
            found[name] = value
        elif kind == "lag":
            now = log_decay(state[f"{name}/steps"].cpu(), decay)
            share = remaining(state[f"{name}/last_step"], now, decay)
            found[name] = weights[name] + value * share.to(value.dtype).unsqueeze(1)
    return found
