"""Adam (§4.1) for dense weights and, only on the touched rows, for embeddings."""

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
from star_ctr.model.training.ema import WeightEma


class Optimizers:
    """Both optimizers as one, with rates that fall linearly from their start to `lr_final` of it."""

    def __init__(self, model: nn.Module, settings: TrainerSettings, total_steps: int) -> None:
        tables = [p for n, p in model.named_parameters() if n.startswith("inputs.tables.")]
        self._own = list(list_domain_parameters(model))
        own = {id(p) for p, _ in self._own}
        dense = [p for n, p in model.named_parameters() if not n.startswith("inputs.tables.") and id(p) not in own]
        groups: list[dict[str, Any]] = [{"params": dense, "weight_decay": settings.optimizer.weight_decay}]
        self._own_decay = 0.0
        if own:
            lr = settings.optimizer.domain_lr or settings.optimizer.lr
            decay = (
                settings.optimizer.weight_decay
                if settings.optimizer.domain_decay is None
                else settings.optimizer.domain_decay
            )
            groups.append({"params": [p for p, _ in self._own], "weight_decay": 0.0, "lr": lr})
            self._own_decay = decay * lr
        self.dense = torch.optim.AdamW(groups, lr=settings.optimizer.lr, fused=True)
        self.sparse = RowAdam(tables, lr=settings.optimizer.embedding_lr or settings.optimizer.lr)
        self.model = model
        self._parameters = list(model.parameters())
        self._alike = settings.parallel == "rows"
        self._table_gradients = TableGradients()
        self._dense_gradients = DenseGradients(model, get_tables(model))
        self._starts = [(g, g["lr"]) for o in (self.dense, self.sparse) for g in o.param_groups]
        self._final, self._sum_over_group = settings.optimizer.lr_final, max(total_steps, 1)

    @property
    def lr(self) -> float:
        """The rate of the shared dense weights at the last step."""
        rate: float = self.dense.param_groups[0]["lr"]
        return rate

    def step(self, number: int, domains: Collection[int] = (), beside: Tensor | None = None) -> Tensor:
        """One step (`number` from 0) on a batch, or one a process, of these domains, with gradients summed over all.

        Returns `beside`, a vector, summed along with them.
        """
        share = 1.0 - (1.0 - self._final) * number / self._sum_over_group
        for group, start in self._starts:
            group["lr"] = start * share
        # Dense gradients are on their way while embeddings are updated.
        self._table_gradients.begin()
        self._dense_gradients.begin(() if self._alike else domains, torch.zeros(0) if beside is None else beside)
        self._table_gradients.finish()
        self.sparse.step()
        beside = self._dense_gradients.finish()
        self._decay_toward_shared(share * self._own_decay)
        self.dense.step()
        return beside

    def join(self, averaged: WeightEma, in_memory: bool) -> str:
        """Before the first step of a group of processes, which all stand alike: settle who has which embeddings.

        With memory that they have in common, whole tables lie once in it, with all that has a row for each of theirs;
        else each process has a copy. Returns which it is, for the record.
        """
        tables = get_tables(self.model)
        if get_rank_and_size()[1] == 1 or tables.sharded:
            return "sharded" if tables.sharded else "whole"
        if not in_memory:
            self._table_gradients = CopiedTableGradients(tables)
            return "a copy in each process"
        for table in tables.parameters():
            table.data = share_tensor(table.data)
        self.sparse.share()
        averaged.share()
        self._table_gradients = SharedTableGradients(tables)
        return "one copy for all processes"

    @torch.no_grad()
    def _decay_toward_shared(self, share: float) -> None:
        """Take the own weights of this step's domains that share of the way to the shared model."""
        for parameter, neutral in self._own if share else ():
            if parameter.grad is not None:
                parameter.mul_(1.0 - share).add_(share * neutral)

    def zero_grad(self) -> None:
        """Drop all gradients: a parameter without one is left alone by the next step."""
        for parameter in self._parameters:
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
    """What the domains of a model add to its shared weights, each with the value at which it adds nothing.

    Modules that have such name them in `neutral`: W_p and gamma_p are 1 (W_p of a sum 0), b_p and beta_p 0.
    """
    for module in model.modules():
        for name, neutral in getattr(module, "neutral", {}).items():
            for parameter in getattr(module, name):
                yield parameter, neutral


def get_tables(model: nn.Module) -> EmbeddingTables:
    """The embedding tables of a model."""
    tables = model.inputs.tables  # type: ignore[union-attr]
    assert isinstance(tables, EmbeddingTables)
    return tables
