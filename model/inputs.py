"""From packed rows to the pooled features z: shared embeddings, pooled sequences, numbers (§3.1, §3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_ctr.conf.layout import PADDING, Layout
from star_ctr.conf.training import ModelSettings


def embedding_widths(layout: Layout, settings: ModelSettings) -> dict[str, int]:
    """The width of each embedding table: its own setting, or `model.dim`."""
    own = {name: e.dim for name, e in settings.embeddings.items()}
    return {name: own.get(name) or settings.dim for name in layout.embeddings}


class SharedInputs(nn.Module):
    """The embedding layer that all domains share, and the pooling & concatenation of §3.2.

    A row's z is: the embeddings of its single ids, then for each sequence the mean of each side's embeddings
    over its true length (0 where it is empty), then its numbers. Gradients of the tables are sparse: a step
    costs by the batch and not by the vocabulary.
    """

    def __init__(self, layout: Layout, settings: ModelSettings) -> None:
        super().__init__()
        self.layout = layout
        widths = embedding_widths(layout, settings)
        self.tables = nn.ModuleDict(
            {
                name: nn.Embedding(rows, widths[name], padding_idx=PADDING, sparse=True)
                for name, rows in layout.embeddings.items()
            }
        )
        for table in self.tables.values():
            assert isinstance(table, nn.Embedding)
            nn.init.normal_(table.weight, std=0.01)
            with torch.no_grad():
                table.weight[PADDING].zero_()
        singles = sum(widths[field.embedding] for field in layout.fields)
        pooled = sum(widths[side.embedding] for s in layout.sequences for side in s.sides)
        self.features = singles + pooled + layout.floats

    def forward(self, ints_BI: Tensor, floats_BN: Tensor) -> Tensor:
        """The pooled features z of each row, B x F."""
        weights = {name: table.weight for name, table in self.tables.items()}
        return pooled_features(self.layout, weights, ints_BI, floats_BN)


def pooled_features(layout: Layout, tables: Mapping[str, Any], ints_BI: Tensor, floats_BN: Tensor) -> Tensor:
    """The pooled features z of each row, B x F; `tables` holds the weights of the embedding tables by name.

    The one place that knows the order of z: training, export and scoring all come through here.
    """
    sparse = torch.is_grad_enabled()
    parts = [
        F.embedding(ints_BI[:, place], tables[field.embedding], padding_idx=PADDING, sparse=sparse)
        for place, field in enumerate(layout.fields)
    ]
    for sequence, offset in layout.sequence_offsets():
        for k, side in enumerate(sequence.sides):
            start = offset + 1 + k * sequence.length
            ids_BL = ints_BI[:, start : start + sequence.length].contiguous()
            parts.append(
                F.embedding_bag(ids_BL, tables[side.embedding], mode="mean", padding_idx=PADDING, sparse=sparse)
            )
    return torch.cat([*parts, floats_BN], dim=1)
