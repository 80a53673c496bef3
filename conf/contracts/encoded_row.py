"""The layout of encoded rows: what each 4-byte place of a row of the `split` table holds.

The split is a machine's format. A row's integers (ids, lengths) are packed into one binary column and its
numbers (float32) into another, since two wide columns stream three times as fast as lists. The layout is
written with the split, travels with the model, and is all that the model, the stream and the scorer know
of a data set.

A row's integers: the ids of `fields`, in order; then for each of `sequences` its length and, for each side,
`length` ids, padded with 0 at the end. Ids: 0 is padding or a missing value, 1 a value that training
did not know, known values follow from 2 on.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from star_ctr.conf.settings.base import SettingsModel

PADDING, UNKNOWN, FIRST_KNOWN = 0, 1, 2
GAP, BEHAVIOUR = "gap", "behaviour"
"""Embedding tables of their own: of time gaps, and of the kinds of history."""
OTHER_DOMAIN = 0
OTHER, OVERALL = "other", "overall"
"""Names that no domain may have: of all unknown ones, and of all together."""
GAP_BUCKETS = 34
"""Time gaps: padding, no time, then floor(log2(1 + seconds)) up to 2^31 s (68 years)."""


def domain_sort_key(domain: str) -> tuple[bool, int, str]:
    """The order in which domains are shown: numbers as numbers, then names, `overall` last."""
    return domain == OVERALL, int(domain) if domain.isdigit() else 1 << 60, domain


class IdField(SettingsModel):
    """One id of a row, made from `column` of the features and looked up in the embedding table `embedding`."""

    name: str
    column: str
    embedding: str


class SequenceField(SettingsModel):
    """A list of up to `length` events (or values, where a `separator` splits them), with one id for every side."""

    name: str
    length: int
    sides: list[IdField]
    separator: str | None = None

    @property
    def width(self) -> int:
        """4-byte places that it takes: its length, then `length` ids a side."""
        return 1 + self.length * len(self.sides)

    def iter_offsets(self, offset: int) -> list[tuple[IdField, int]]:
        """Each side with the place of its first id, where the sequence's own place is `offset`."""
        return [(side, offset + 1 + k * self.length) for k, side in enumerate(self.sides)]


class NumericSource(SettingsModel):
    """How a number is made from columns of `features`: as it is, or a smoothed rate of two counts."""

    column: str
    denominator: str | None = None
    prior: float = 0.0
    base: float = 0.0
    log: bool = False


class NumericField(SettingsModel):
    """A standardised number: (x - mean) / std over the training rows, within 4 deviations; a missing value is 0.

    Mean and std exclude outliers. If `std` is 0, every value is encoded as 0: the number was constant in the training
    rows (for example, a statistic of earlier days on the first day of a log), so the model has learned nothing about it
    and values that vary later would only mislead it.
    """

    name: str
    source: NumericSource
    mean: float = 0.0
    std: float = 1.0


class BucketField(SettingsModel):
    """A number cut at `bounds` (quantiles of the training rows); the bucket's id has an embedding."""

    name: str
    source: NumericSource
    bounds: list[float] = Field(default_factory=list)


class Layout(SettingsModel):
    """Everything needed to read an encoded row, or to encode one."""

    ds: str
    domains: list[str]
    embeddings: dict[str, int]
    categorical: list[IdField]
    buckets: list[BucketField]
    numeric: list[NumericField]
    sequences: list[SequenceField]

    @property
    def fields(self) -> list[IdField]:
        """The single ids of a row, in their order: categorical ones, then buckets."""
        return [
            *self.categorical,
            *(IdField(name=b.name, column=b.source.column, embedding=b.name) for b in self.buckets),
        ]

    @property
    def columns(self) -> list[str]:
        """The columns of `features` that a row is encoded from, each once."""
        sources = [*(b.source for b in self.buckets), *(n.source for n in self.numeric)]
        named = [f.column for f in (*self.categorical, *(side for s in self.sequences for side in s.sides))]
        named += [column for s in sources for column in (s.column, s.denominator) if column]
        return list(dict.fromkeys(named))

    @property
    def ints(self) -> int:
        """Number of 4-byte integers in a row."""
        return len(self.fields) + sum(s.width for s in self.sequences)

    @property
    def floats(self) -> int:
        """Number of 4-byte floats in a row."""
        return len(self.numeric)

    @property
    def row_bytes(self) -> int:
        """Bytes of an encoded row in memory: its integers and numbers, its label, its domain and its file's number."""
        return 4 * (self.ints + self.floats + 3)

    def iter_sequence_offsets(self) -> Iterator[tuple[SequenceField, int]]:
        """Each sequence with the place of its length in the row's integers."""
        offset = len(self.fields)
        for sequence in self.sequences:
            yield sequence, offset
            offset += sequence.width

    def domain_id(self, domain: str) -> int:
        """The number of a domain: from 1 on, 0 for any that training did not know."""
        return self.domains.index(domain) + 1 if domain in self.domains else OTHER_DOMAIN
