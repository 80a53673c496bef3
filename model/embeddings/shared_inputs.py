"""From packed rows to the pooled features z: shared embeddings, pooled sequences, numbers (§3.1, §3.2)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import torch
from torch import Tensor, nn

from star_ctr.conf.contracts.encoded_row import Layout, SequenceField
from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.embeddings.sharding import WHOLE
from star_ctr.model.embeddings.tables import EmbeddingTables, MeanLookup
from star_ctr.model.layers.attention_pooling import DienPooling, DinPooling


def get_embedding_widths(layout: Layout, settings: ModelSettings) -> dict[str, int]:
    """The width of each embedding table: its own setting, or `model.dim`."""
    own = {name: e.dim for name, e in settings.embeddings.items()}
    return {name: own.get(name) or settings.dim for name in layout.embeddings}


class SharedInputs(nn.Module):
    """The embedding layer that all domains share, and the pooling & concatenation of §3.2.

    A row's z is: the embeddings of its single ids, the means of its lists of ids (0 where a list is empty), the
    sequences that are pooled by attention, then its numbers. `model.pooling` says how sequences of events are pooled;
    a list of values (a categorical feature with a `separator`) is always the mean of them.
    """

    def __init__(self, layout: Layout, settings: ModelSettings, part: tuple[int, int] = WHOLE) -> None:
        super().__init__()
        self.layout = layout
        self.widths = get_embedding_widths(layout, settings)
        self.tables = EmbeddingTables(layout.embeddings, self.widths, part)
        attended = [] if settings.pooling == "mean" else [s for s in layout.sequences if s.separator is None]
        self.pooling = nn.ModuleDict({_make_module_key(s.name): self._make_pooling(s, settings) for s in attended})
        self.singles = sum(self.widths[field.embedding] for field in layout.categorical)
        """Width of the categorical ids' embeddings, which come first in z."""
        buckets = sum(self.widths[b.name] for b in layout.buckets)
        pooled = sum(self.widths[side.embedding] for s in layout.sequences for side in s.sides)
        self.features = self.singles + buckets + pooled + layout.floats
        lists = list(self._list_lookups())
        self.lookups = nn.ModuleDict(
            {str(w): MeanLookup([at for v, at in lists if v == w]) for w in dict.fromkeys(w for w, _ in lists)}
        )
        self._runs = list(_group_widths([width for width, _ in lists]))

    def _list_lookups(self) -> Iterator[tuple[int, tuple[int, int, int]]]:
        """What is looked up and averaged, in the order of z: width, and first place, length, and offset."""
        for place, field in enumerate(self.layout.fields):
            yield self.widths[field.embedding], (place, 1, self.tables.offset[field.embedding])
        for sequence, offset in self.layout.iter_sequence_offsets():
            if _make_module_key(sequence.name) not in self.pooling:
                for side, start in sequence.iter_offsets(offset):
                    yield self.widths[side.embedding], (start, sequence.length, self.tables.offset[side.embedding])

    def _make_pooling(self, sequence: SequenceField, settings: ModelSettings) -> nn.Module:
        """The pooling of a sequence of events."""
        event, matched = 0, []
        for side in sequence.sides:
            width = self.widths[side.embedding]
            if self._find_candidate(side.embedding) is not None:
                matched.append(slice(event, event + width))
            event += width
        form = DinPooling if settings.pooling == "din" else DienPooling
        return form(settings, event, matched, sum(part.stop - part.start for part in matched))

    def _find_candidate(self, embedding: str) -> int | None:
        """The place of the candidate's own id in an embedding table, if a row has one."""
        return next((k for k, field in enumerate(self.layout.fields) if field.embedding == embedding), None)

    def forward(self, ints_BI: Tensor, floats_BN: Tensor) -> Tensor:
        """The pooled features z of each row, B x F.

        The one place that knows the order of z: training, export and scoring all come through here.
        """
        means = {w: lookup(self.tables, w, ints_BI) for w, lookup in self.lookups.items()}
        parts = [means[str(width)][:, start:stop].flatten(1) for width, start, stop in self._runs]
        attended = []
        if self.pooling:
            looked_up_BS = torch.cat(parts, dim=1)
            attended = [
                self._pool_by_attention(ints_BI, looked_up_BS, sequence, offset)
                for sequence, offset in self.layout.iter_sequence_offsets()
                if _make_module_key(sequence.name) in self.pooling
            ]
        return torch.cat([*parts, *attended, floats_BN], dim=1)

    def _pool_by_attention(self, ints_BI: Tensor, looked_up_BS: Tensor, sequence: SequenceField, offset: int) -> Tensor:
        """The events of a sequence pooled by attention to the candidate: those of its ids that share their tables."""
        events, targets = [], []
        for side, start in sequence.iter_offsets(offset):
            events.append(self.tables.embed(side.embedding, ints_BI[:, start : start + sequence.length]))
            if (field := self._find_candidate(side.embedding)) is not None:
                before = sum(self.widths[f.embedding] for f in self.layout.fields[:field])
                targets.append(looked_up_BS[:, before : before + self.widths[side.embedding]])
        pooled: Tensor = self.pooling[_make_module_key(sequence.name)](
            torch.cat(events, 2), ints_BI[:, offset], torch.cat(targets, 1)
        )
        return pooled

    def auxiliary_loss(self) -> Tensor | None:
        """What DIEN's interest extractors add to the loss of the batch just seen, summed over its rows."""
        losses = [p.auxiliary_loss() for p in self.pooling.values() if isinstance(p, DienPooling)]
        return torch.stack(losses).sum() if losses else None


def _make_module_key(name: str) -> str:
    """Return the key of a feature's module: a `ModuleDict` rejects names of its own attributes (`items`, `type`)."""
    return f"{name}-" if hasattr(nn.ModuleDict, name) or name == "training" else name


def _group_widths(widths: list[int]) -> Iterator[tuple[int, int, int]]:
    """Neighbours of one width: the width, and from which to which of its lists they go."""
    before: dict[int, int] = {}
    for width, run in groupby(widths):
        start = before.get(width, 0)
        before[width] = start + len(list(run))
        yield width, start, before[width]
