"""Adam (§4.1) for dense weights, and for the touched rows of embedding tables.

Dense weights use AdamW with decoupled weight decay. Embedding tables use `RowAdam`, whose cost depends on the rows of a
batch and not on the size of the table. Domain-specific weights have a separate learning rate, and decay toward the
value at which they do not change the shared model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from star_ctr.conf.settings.trainer import TrainerSettings
from star_ctr.model.distributed.gradients import (
    CopiedTableGradients,
    DenseGradients,
    SharedTableGradients,
    TableGradients,
)
from star_ctr.model.distributed.process_group import get_rank_and_size
from star_ctr.model.distributed.shared_memory import share_tensor
from star_ctr.model.embeddings.row_adam import RowAdam
from star_ctr.model.embeddings.tables import EmbeddingTables
from star_ctr.model.layers.per_domain import ParametersByDomain
from star_ctr.model.training.ema import WeightEma


class Optimizers:
    """The optimizers of dense weights and embedding tables.

    All learning rates decay linearly to `lr_final` times their initial value.
    """

    def __init__(self, model: nn.Module, settings: TrainerSettings, total_steps: int) -> None:
        tables = [p for n, p in model.named_parameters() if n.startswith("inputs.tables.")]
        self._neutral_values = dict(list_domain_parameters(model))
        dense = [
            p
            for n, p in model.named_parameters()
            if not n.startswith("inputs.tables.") and p not in self._neutral_values
        ]
        groups: list[dict[str, Any]] = [{"params": dense, "weight_decay": settings.optimizer.weight_decay}]
        self._domain_decay = 0.0
        if self._neutral_values:
            lr = settings.optimizer.domain_lr or settings.optimizer.lr
            decay = (
                settings.optimizer.weight_decay
                if settings.optimizer.domain_decay is None
                else settings.optimizer.domain_decay
            )
            groups.append({"params": list(self._neutral_values), "weight_decay": 0.0, "lr": lr})
            self._domain_decay = decay * lr
        self.dense = torch.optim.AdamW(groups, lr=settings.optimizer.lr, fused=True)
        self._by_domain = ParametersByDomain(model)
        self._active = [p for _, p in self._by_domain.select(None)]
        self._dense_parameters = frozenset(dense)
        self.sparse = RowAdam(tables, lr=settings.optimizer.embedding_lr or settings.optimizer.lr)
        self.model = model
        self._splits_batches = settings.parallel == "rows"
        self._table_gradients = TableGradients()
        self._dense_gradients = DenseGradients(model, get_tables(model))
        self._initial_rates = [(g, g["lr"]) for o in (self.dense, self.sparse) for g in o.param_groups]
        self._final_share, self._total_steps = settings.optimizer.lr_final, max(total_steps, 1)

    @property
    def lr(self) -> float:
        """Learning rate of the shared dense weights at the last step."""
        rate: float = self.dense.param_groups[0]["lr"]
        return rate

    def step(self, number: int, domains: Collection[int] | None = None, vector: Tensor | None = None) -> Tensor:
        """Update all weights with the gradients of all processes.

        Args:
            number: Number of the step, from 0; it determines the learning rates.
            domains: Domains of the batches of all processes; None: any domain may have gradients.
            vector: A vector to sum over the processes along with the gradients.

        Returns:
            The sum of `vector`; empty if none was given.
        """
        share = 1.0 - (1.0 - self._final_share) * number / self._total_steps
        for group, rate in self._initial_rates:
            group["lr"] = rate * share
        self._select_parameters(domains)
        # Dense gradients are exchanged in the background while embeddings are updated.
        self._table_gradients.begin()
        self._dense_gradients.begin(
            () if self._splits_batches or domains is None else domains, torch.zeros(0) if vector is None else vector
        )
        self._table_gradients.finish()
        self.sparse.step()
        vector = self._dense_gradients.finish()
        self._decay_toward_shared(share * self._domain_decay)
        self.dense.step()
        return vector

    def join(self, ema: WeightEma, has_shared_memory: bool) -> str:
        """Set up how the processes hold and update the embedding tables.

        All processes must call this before the first step, with equal weights and optimizer states. If they have shared
        memory, it holds one copy of the tables, with the optimizer state and EMA of each row. Otherwise, each process
        has a copy. Sharded tables and a single process need no setup.

        Args:
            ema: The EMA of the weights.
            has_shared_memory: The processes can share memory.

        Returns:
            How the tables are held, for the record.
        """
        tables = get_tables(self.model)
        if get_rank_and_size()[1] == 1 or tables.sharded:
            return "sharded" if tables.sharded else "whole"
        if not has_shared_memory:
            self._table_gradients = CopiedTableGradients(tables)
            return "a copy in each process"
        for table in tables.parameters():
            table.data = share_tensor(table.data)
        self.sparse.share()
        ema.share()
        self._table_gradients = SharedTableGradients(tables)
        return "one copy for all processes"

    @torch.no_grad()
    def _decay_toward_shared(self, share: float) -> None:
        """Decay the domain-specific weights of this step's domains toward their neutral values by a share.

        A domain is one of this step's domains if its weights have a gradient.
        """
        for parameter in self._active if share else ():
            neutral = self._neutral_values.get(parameter)
            if neutral is not None and parameter.grad is not None:
                parameter.mul_(1.0 - share).add_(share * neutral)

    def _select_parameters(self, domains: Collection[int] | None) -> None:
        """Restrict the loops over parameters, including those of AdamW, to parameters that can have a gradient."""
        self._active = [p for _, p in self._by_domain.select(domains)]
        shared_group, *domain_groups = self.dense.param_groups
        shared_group["params"] = [p for p in self._active if p in self._dense_parameters]
        for group in domain_groups:
            group["params"] = [p for p in self._active if p in self._neutral_values]

    def zero_grad(self) -> None:
        """Set the gradients of the last step to None; the next step does not change a parameter without a gradient."""
        for parameter in self._active:
            parameter.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state of both optimizers by name, for a checkpoint."""
        names: dict[Tensor, str] = {p: n for n, p in self.model.named_parameters()}
        return {
            f"{names[parameter]}/{key}": value
            for optimizer in (self.dense, self.sparse)
            for parameter, state in optimizer.state.items()
            for key, value in state.items()
        }

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Load the state that `state_dict` returned."""
        parameters = dict(self.model.named_parameters())
        for name, value in tensors.items():
            parameter, _, key = name.rpartition("/")
            optimizer = self.sparse if parameter.startswith("inputs.tables.") else self.dense
            optimizer.state[parameters[parameter]][key] = value


def list_domain_parameters(model: nn.Module) -> Iterator[tuple[nn.Parameter, float]]:
    """Iterate over the domain-specific parameters that modify shared weights.

    Modules declare these parameters in `neutral_values`: W_p (1, or 0 if weights are summed), gamma_p (1), b_p and
    beta_p (0).

    Yields:
        Each parameter with its neutral value, at which the domain uses the shared weights unchanged.
    """
    for module in model.modules():
        for name, neutral in getattr(module, "neutral_values", {}).items():
            for parameter in getattr(module, name):
                yield parameter, neutral


def get_tables(model: nn.Module) -> EmbeddingTables:
    """Return the embedding tables of a model."""
    tables = model.inputs.tables  # type: ignore[union-attr]
    assert isinstance(tables, EmbeddingTables)
    return tables
