"""From packed rows to the pooled features z: shared embeddings, pooled sequences, numbers (§3.1, §3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_ctr.conf.layout import PADDING, Layout, SequenceField
from star_ctr.conf.training import ModelSettings
from star_ctr.model.pooling import DienPooling, DinPooling


def embedding_widths(layout: Layout, settings: ModelSettings) -> dict[str, int]:
    """The width of each embedding table: its own setting, or `model.dim`."""
    own = {name: e.dim for name, e in settings.embeddings.items()}
    return {name: own.get(name) or settings.dim for name in layout.embeddings}


class SharedInputs(nn.Module):
    """The embedding layer that all domains share, and the pooling & concatenation of §3.2.

    A row's z is: the embeddings of its single ids, then each sequence pooled to one vector (0 where it is
    empty), then its numbers. `model.pooling` says how sequences of events are pooled; a list of values (a
    categorical feature with a `separator`) is always the mean of them. Gradients of the tables are sparse: a step
    costs by the batch and not by the vocabulary.
    """

    def __init__(self, layout: Layout, settings: ModelSettings) -> None:
        super().__init__()
        self.layout = layout
        self.widths = embedding_widths(layout, settings)
        self.tables = nn.ModuleDict(
            {
                name: nn.Embedding(rows, self.widths[name], padding_idx=PADDING, sparse=True)
                for name, rows in layout.embeddings.items()
            }
        )
        for table in self.tables.values():
            assert isinstance(table, nn.Embedding)
            nn.init.normal_(table.weight, std=0.01)
            with torch.no_grad():
                table.weight[PADDING].zero_()
        self.pooling = nn.ModuleDict(
            {s.name: self._pooling(s, settings) for s in layout.sequences if s.separator is None}
            if settings.pooling != "mean"
            else {}
        )
        self.singles = sum(self.widths[field.embedding] for field in layout.categorical)
        """Width of the categorical ids' embeddings, which come first in z."""
        buckets = sum(self.widths[b.name] for b in layout.buckets)
        pooled = sum(self.widths[side.embedding] for s in layout.sequences for side in s.sides)
        self.features = self.singles + buckets + pooled + layout.floats

    def _pooling(self, sequence: SequenceField, settings: ModelSettings) -> nn.Module:
        """The pooling of a sequence of events."""
        event, matched = 0, []
        for side in sequence.sides:
            width = self.widths[side.embedding]
            if self._target(side.embedding) is not None:
                matched.append(slice(event, event + width))
            event += width
        form = DinPooling if settings.pooling == "din" else DienPooling
        return form(settings, event, matched, sum(part.stop - part.start for part in matched))

    def _target(self, embedding: str) -> int | None:
        """The place of the candidate's own id in an embedding table, if a row has one."""
        return next((k for k, field in enumerate(self.layout.fields) if field.embedding == embedding), None)

    def forward(self, ints_BI: Tensor, floats_BN: Tensor) -> Tensor:
        """The pooled features z of each row, B x F.

        The one place that knows the order of z: training, export and scoring all come through here.
        """
        parts = [self._embedded(field.embedding, ints_BI[:, k]) for k, field in enumerate(self.layout.fields)]
        for sequence, offset in self.layout.sequence_offsets():
            ids = [
                ints_BI[:, start : start + sequence.length].contiguous()
                for start in range(offset + 1, offset + sequence.width, sequence.length)
            ]
            tables = [side.embedding for side in sequence.sides]
            if sequence.name in self.pooling:
                events = [self._embedded(table, ids_BL) for table, ids_BL in zip(tables, ids, strict=True)]
                targets = [parts[k] for table in tables if (k := self._target(table)) is not None]
                pooling = self.pooling[sequence.name]
                parts.append(pooling(torch.cat(events, 2), ints_BI[:, offset], torch.cat(targets, 1)))
            else:
                parts += [self._mean(table, ids_BL) for table, ids_BL in zip(tables, ids, strict=True)]
        return torch.cat([*parts, floats_BN], dim=1)

    def _embedded(self, table: str, ids: Tensor) -> Tensor:
        weight = self.tables[table].weight
        return F.embedding(ids, weight, padding_idx=PADDING, sparse=torch.is_grad_enabled())  # type: ignore[arg-type]

    def _mean(self, table: str, ids_BL: Tensor) -> Tensor:
        weight = self.tables[table].weight
        sparse = torch.is_grad_enabled()
        return F.embedding_bag(ids_BL, weight, mode="mean", padding_idx=PADDING, sparse=sparse)  # type: ignore[arg-type]

    def own_loss(self) -> Tensor | None:
        """What DIEN's interest extractors add to the loss of the batch just seen, summed over its rows."""
        losses = [p.own_loss() for p in self.pooling.values() if isinstance(p, DienPooling)]
        return torch.stack(losses).sum() if losses else None
