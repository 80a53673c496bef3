"""The layout of the encoded rows in the table `split`.

An encoded row has two binary columns: `ints` with 4-byte integers (ids and lengths), and `floats` with 4-byte floats
(numbers). Two wide binary columns stream three times as fast as list columns, but other tools cannot read them.

The integers of a row are:

1. the ids of `Layout.fields`, in order
2. for each of `Layout.sequences`: its length; then, for each side, `length` ids, padded with 0 at the end

The floats of a row are the numbers of `Layout.numeric`, then the elements of each of `Layout.vectors`.

Id 0 stands for padding or a missing categorical value, 1 for what is not known (see `UNKNOWN`), and 2 or more for known
values and buckets. In the tables `Layout.hashed`, the id of a value is 2 + hash % (number of ids - 2).

A row may also have a weight, and labels of further outcomes (`label.also`) in the binary column `outcomes`: one 4-byte
float per outcome, which is NaN if the outcome is not known yet. Both are only used in training.

The layout is written with the split and exported with the model. The model, the data reader and the scorer know the
data set only through the layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from pydantic import Field

from star_ctr.conf.contracts.domains import DomainIndex
from star_ctr.conf.contracts.fingerprint import hash_json
from star_ctr.conf.settings.base import SettingsModel

PADDING, UNKNOWN, FIRST_KNOWN = 0, 1, 2
"""Ids: padding and missing categorical values; everything that is not known; and the first known value or bucket.

Unknown values are those outside the vocabulary (unseen, or below `min_count`), missing bucketed numbers, and events
without a time.
"""
GAP_TABLE, BEHAVIOUR_TABLE = "gap", "behaviour"
"""Embedding tables of the time gaps and of the kinds of events in sequences."""
GAP_BUCKETS = 34
"""Number of ids of time gaps: padding, no time, then floor(log2(1 + seconds)) up to 2^31 s (68 years)."""


class IdField(SettingsModel):
    """An id: the value of the column `column` of `features`, as an index into the embedding table `embedding`.

    With a list of columns, the value is their combination (`features.encoding.crosses`).
    """

    name: str
    column: str | list[str]
    embedding: str

    @property
    def columns(self) -> list[str]:
        """The columns whose combinations are the values; usually a single one."""
        return [self.column] if isinstance(self.column, str) else self.column


class SequenceField(SettingsModel):
    """A list of up to `length` events or values, with one id per event and side.

    With a `separator`, the column is text that it splits into values, and the first `length` values are kept. Without
    one, each side is a list column of events, and the `length` most recent events are kept.
    """

    name: str
    length: int
    sides: list[IdField]
    separator: str | None = None

    @property
    def width(self) -> int:
        """Number of integers in a row: the length of the list, then `length` ids per side."""
        return 1 + self.length * len(self.sides)

    def iter_offsets(self, offset: int) -> list[tuple[IdField, int]]:
        """Return each side with the offset of its first id, given the offset of the sequence, in 4-byte integers."""
        return [(side, offset + 1 + k * self.length) for k, side in enumerate(self.sides)]


class NumericSource(SettingsModel):
    """How a number is computed from columns of `features`.

    The number is `column`, or with a `denominator` the smoothed rate
    (column + prior * base) / (denominator + prior). With `log`, it is then transformed to log(1 + x), where negative
    values count as 0. Infinite values count as missing. With `missing`, it is instead 1 if this number is missing, and
    0 if it is not.
    """

    column: str
    denominator: str | None = None
    prior: float = 0.0
    base: float = 0.0
    log: bool = False
    # Without it, the layout has the same hash as before this key existed.
    missing: bool = Field(False, exclude_if=lambda missing: not missing)


class NumericField(SettingsModel):
    """A standardized number: (x - mean) / std over the training rows, clipped to [-4, 4]; a missing value is 0.

    Mean and std exclude outliers. If `std` is 0, every value is encoded as 0: the number was constant in the training
    rows (for example, a statistic of earlier days on the first day of a log), so the model has learned nothing about it
    and values that vary later would only mislead it.
    """

    name: str
    source: NumericSource
    mean: float = 0.0
    std: float = 1.0


class BucketField(SettingsModel):
    """A number as the id of its bucket. `bounds` are quantiles of the training rows; a missing number has the id 1."""

    name: str
    source: NumericSource
    bounds: list[float] = Field(default_factory=list)


class VectorField(SettingsModel):
    """A vector as `length` numbers: (x - mean) / scale over the training rows; a missing vector is all zeros.

    `mean` has one value per element. `scale` is the root mean square of the differences over all elements and rows.
    Vectors whose root mean square exceeds 4 are shortened to it. Mean and scale exclude outliers. If `scale` is 0,
    because all vectors were equal or missing, every vector is encoded as zeros.

    The model projects a vector to `dim` inputs, unless this equals `length`.
    """

    name: str
    column: str
    length: int
    dim: int
    mean: list[float] = Field(default_factory=list)
    scale: float = 0.0


TRAIN, TEST, TRAIN_DAY = "train", "test", "train_day"
"""Values of the column `part` of the split: the rows of a night, or the training rows of a day for all nights."""


class SplitPartition(NamedTuple):
    """Values of the partition columns `ds` and `part` of the split."""

    ds: str
    part: str


class Layout(SettingsModel):
    """Everything that is needed to encode a row or to read an encoded one.

    Attributes:
        ds: The night of the split.
        domains: The domains that training knows. Domain `domains[k]` has the number k + 1.
        embeddings: The number of ids of each embedding table, including the ids 0 and 1.
        hashed: The embedding tables whose ids are hashes of values. The others have a vocabulary, buckets or gaps.
        has_weights: Whether the training rows have weights, in the column `weight`.
        outcomes: The names of the further outcomes, in the order of the column `outcomes`.
        categorical: The single ids of categorical features.
        buckets: The numbers that are encoded as ids of buckets.
        numeric: The standardized numbers.
        vectors: The vectors, whose numbers follow those of `numeric`.
        sequences: The lists of values and the sequences of events.
    """

    ds: str
    domains: list[str]
    embeddings: dict[str, int]
    categorical: list[IdField]
    buckets: list[BucketField]
    numeric: list[NumericField]
    sequences: list[SequenceField]
    hashed: list[str] = Field(default_factory=list)
    # Without vectors or weights, the layout has the same hash as before these keys existed.
    vectors: list[VectorField] = Field(default_factory=list, exclude_if=lambda vectors: not vectors)
    has_weights: bool = Field(False, exclude_if=lambda has_weights: not has_weights)
    outcomes: list[str] = Field(default_factory=list, exclude_if=lambda outcomes: not outcomes)

    @property
    def fields(self) -> list[IdField]:
        """The single ids of a row, in order: first categorical features, then buckets."""
        return [
            *self.categorical,
            *(IdField(name=b.name, column=b.source.column, embedding=b.name) for b in self.buckets),
        ]

    @property
    def columns(self) -> list[str]:
        """The distinct columns of `features` that a row is encoded from."""
        sources = [*(b.source for b in self.buckets), *(n.source for n in self.numeric)]
        fields = [*self.categorical, *(side for s in self.sequences for side in s.sides)]
        names = [column for field in fields for column in field.columns]
        names += [column for s in sources for column in (s.column, s.denominator) if column]
        names += [vector.column for vector in self.vectors]
        return list(dict.fromkeys(names))

    @property
    def int_count(self) -> int:
        """Number of 4-byte integers in a row."""
        return len(self.fields) + sum(s.width for s in self.sequences)

    @property
    def float_count(self) -> int:
        """Number of 4-byte floats in a row."""
        return len(self.numeric) + sum(vector.length for vector in self.vectors)

    @property
    def row_bytes(self) -> int:
        """Size of an encoded row in memory, in bytes: all of its values, its domain and its file number."""
        return 4 * (self.int_count + self.float_count + 3 + self.has_weights + len(self.outcomes))

    def iter_sequence_offsets(self) -> Iterator[tuple[SequenceField, int]]:
        """Yield each sequence with the offset of its length among the row's integers."""
        offset = len(self.fields)
        for sequence in self.sequences:
            yield sequence, offset
            offset += sequence.width

    def iter_vector_offsets(self) -> Iterator[tuple[VectorField, int]]:
        """Yield each vector with the offset of its first element among the row's floats."""
        offset = len(self.numeric)
        for vector in self.vectors:
            yield vector, offset
            offset += vector.length

    def hash_encoding(self) -> str:
        """Hash what determines the encoding of a row, apart from the known values and domains."""
        return hash_json(self.model_dump(mode="json", exclude={"ds", "domains", "embeddings"}), 32)

    @property
    def domain_index(self) -> DomainIndex:
        """The numbers of the domains."""
        return _make_domain_index(tuple(self.domains))


@lru_cache(maxsize=8)
def _make_domain_index(domains: tuple[str, ...]) -> DomainIndex:
    # Cached by value and not in the layout, whose copies with other domains would keep it.
    return DomainIndex(domains)
