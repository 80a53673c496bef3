"""The inputs that all domains share: from encoded rows to the pooled features z (§3.1, §3.2).

Tensor names end in their shape:
    B: rows of the batch
    I: integers of an encoded row
    N: numbers of an encoded row
    S: features that come from single ids and averaged lists, the first features of z
    F: features of z
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import torch
from torch import Tensor, nn

from star_ctr.conf.contracts.encoded_row import Layout, SequenceField
from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.embeddings.sharding import WHOLE_PART
from star_ctr.model.embeddings.tables import EmbeddingTables, MeanLookup
from star_ctr.model.layers.attention_pooling import DienPooling, DinPooling


def get_embedding_widths(layout: Layout, settings: ModelSettings) -> dict[str, int]:
    """Return the width of each embedding table: `model.embeddings.<table>.dim`, or `model.dim` by default."""
    dims = {name: e.dim for name, e in settings.embeddings.items()}
    return {name: dims.get(name) or settings.dim for name in layout.embeddings}


class SharedInputs(nn.Module):
    """The embedding layer that all domains share (§3.1), and the pooling and concatenation of §3.2.

    The features z of a row are, in this order:

    1. the embeddings of its single ids,
    2. the mean embeddings of its lists of ids (0 for an empty list),
    3. the sequences that are pooled by attention,
    4. its numbers,
    5. its vectors, each either projected or unchanged (a feature of kind `vector`).

    `model.pooling` selects how sequences of events are pooled. Lists of values (a categorical feature with a
    `separator`) are always averaged.

    Args:
        layout: The layout of the encoded rows.
        settings: The settings of the model.
        part: (rank, parts): the part of the embedding rows that this process holds.

    Attributes:
        widths: The width of each embedding table.
        tables: The embedding tables.
        pooling: The attention pooling of each sequence that has one.
        projections: The linear projection of each vector that has one. It has no bias, so a missing vector, which is
            all zeros, stays zeros.
        singles: The number of features that embed categorical ids. They are the first features of z.
        features: F.
        lookups: The lookup of single ids and averaged lists, by width of the tables.
    """

    def __init__(self, layout: Layout, settings: ModelSettings, part: tuple[int, int] = WHOLE_PART) -> None:
        super().__init__()
        self.layout = layout
        self.widths = get_embedding_widths(layout, settings)
        self.tables = EmbeddingTables(layout.embeddings, self.widths, part)
        attended = [] if settings.pooling == "mean" else [s for s in layout.sequences if s.separator is None]
        self.pooling = nn.ModuleDict({_make_module_key(s.name): self._make_pooling(s, settings) for s in attended})
        self.singles = sum(self.widths[field.embedding] for field in layout.categorical)
        buckets = sum(self.widths[b.name] for b in layout.buckets)
        pooled = sum(self.widths[side.embedding] for s in layout.sequences for side in s.sides)
        self.features = self.singles + buckets + pooled + len(layout.numeric)
        self.features += sum(vector.dim for vector in layout.vectors)
        lists = list(self._list_lookups())
        self.lookups = nn.ModuleDict(
            {str(w): MeanLookup([spec for v, spec in lists if v == w]) for w in dict.fromkeys(w for w, _ in lists)}
        )
        self.projections = nn.ModuleDict(
            {
                _make_module_key(v.name): nn.Linear(v.length, v.dim, bias=False)
                for v in layout.vectors
                if v.dim < v.length
            }
        )
        self._lookup_ranges = list(_group_widths([width for width, _ in lists]))

    def _list_lookups(self) -> Iterator[tuple[int, tuple[int, int, int]]]:
        """Yield the single ids and averaged lists of a row in the order of z.

        Yields:
            The width of the table, and the arguments of `MeanLookup`: (index of the first id, length, offset).
        """
        for index, field in enumerate(self.layout.fields):
            yield self.widths[field.embedding], (index, 1, self.tables.offset[field.embedding])
        for sequence, offset in self.layout.iter_sequence_offsets():
            if _make_module_key(sequence.name) not in self.pooling:
                for side, start in sequence.iter_offsets(offset):
                    yield self.widths[side.embedding], (start, sequence.length, self.tables.offset[side.embedding])

    def _make_pooling(self, sequence: SequenceField, settings: ModelSettings) -> nn.Module:
        """Create the attention pooling of a sequence of events."""
        event_width, matched = 0, []
        for side in sequence.sides:
            width = self.widths[side.embedding]
            if self._find_candidate(side.embedding) is not None:
                matched.append(slice(event_width, event_width + width))
            event_width += width
        pooling_class = DinPooling if settings.pooling == "din" else DienPooling
        return pooling_class(settings, event_width, matched, sum(part.stop - part.start for part in matched))

    def _find_candidate(self, embedding: str) -> int | None:
        """Return the index of the first single id in an embedding table, which is the candidate's; None if none is."""
        return next((k for k, field in enumerate(self.layout.fields) if field.embedding == embedding), None)

    def forward(self, ints_BI: Tensor, floats_BN: Tensor) -> Tensor:
        """Compute the pooled features z.

        Only this method defines the order of the features. Training, export and scoring all call it.

        Args:
            ints_BI: The integers of the encoded rows.
            floats_BN: The numbers of the encoded rows.

        Returns:
            The features z of each row, B x F.
        """
        means = {w: lookup(self.tables, w, ints_BI) for w, lookup in self.lookups.items()}
        parts = [means[str(width)][:, start:stop].flatten(1) for width, start, stop in self._lookup_ranges]
        attended = []
        if self.pooling:
            looked_up_BS = torch.cat(parts, dim=1)
            attended = [
                self._pool_by_attention(ints_BI, looked_up_BS, sequence, offset)
                for sequence, offset in self.layout.iter_sequence_offsets()
                if _make_module_key(sequence.name) in self.pooling
            ]
        return torch.cat([*parts, *attended, *self._project_vectors(floats_BN)], dim=1)

    def _project_vectors(self, floats_BN: Tensor) -> Iterator[Tensor]:
        """Yield the numbers of the rows, then each vector, projected if it has a projection."""
        yield floats_BN[:, : len(self.layout.numeric)] if self.layout.vectors else floats_BN
        for vector, offset in self.layout.iter_vector_offsets():
            elements = floats_BN[:, offset : offset + vector.length]
            key = _make_module_key(vector.name)
            yield self.projections[key](elements) if key in self.projections else elements

    def _pool_by_attention(self, ints_BI: Tensor, looked_up_BS: Tensor, sequence: SequenceField, offset: int) -> Tensor:
        """Pool the events of a sequence by attention to the candidate.

        The target of the attention is the row's single ids that share a table with a side of the sequence.

        Args:
            ints_BI: The integers of the encoded rows.
            looked_up_BS: The features that come from single ids and averaged lists.
            sequence: The sequence.
            offset: The index of the sequence among the integers.

        Returns:
            The pooled sequence, B x E.
        """
        events, targets = [], []
        for side, start in sequence.iter_offsets(offset):
            events.append(self.tables.embed(side.embedding, ints_BI[:, start : start + sequence.length]))
            if (field := self._find_candidate(side.embedding)) is not None:
                column = sum(self.widths[f.embedding] for f in self.layout.fields[:field])
                targets.append(looked_up_BS[:, column : column + self.widths[side.embedding]])
        pooled: Tensor = self.pooling[_make_module_key(sequence.name)](
            torch.cat(events, 2), ints_BI[:, offset], torch.cat(targets, 1)
        )
        return pooled

    def auxiliary_loss(self) -> Tensor | None:
        """Return the auxiliary loss of DIEN for the last forward pass in training, summed over its rows.

        Returns:
            The sum over all sequences, or None without DIEN pooling.
        """
        losses = [p.auxiliary_loss() for p in self.pooling.values() if isinstance(p, DienPooling)]
        return torch.stack(losses).sum() if losses else None


def _make_module_key(name: str) -> str:
    """Return the key of a sequence's module: a `ModuleDict` rejects names of its own attributes (`items`, `type`)."""
    return f"{name}-" if hasattr(nn.ModuleDict, name) or name == "training" else name


def _group_widths(widths: list[int]) -> Iterator[tuple[int, int, int]]:
    """Group consecutive lists of the same width.

    Args:
        widths: The width of each list, in the order of z.

    Yields:
        The width of a group, and the start and stop of the group among all lists of this width.
    """
    end_by_width: dict[int, int] = {}
    for width, group in groupby(widths):
        start = end_by_width.get(width, 0)
        end_by_width[width] = start + len(list(group))
        yield width, start, end_by_width[width]
