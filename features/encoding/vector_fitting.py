"""Fit the scales of vectors on training rows, in one scan of the rows.

Outliers are excluded: a single corrupt vector with elements of 1e18 would make all others look equal. A vector is an
outlier if it is more than about 100 times as large as 99.9% of the vectors. To find them in the same scan, vectors are
summed separately by the power of two of their size. The sums are exact (`vector_sums`), so the result does not depend
on the order or the partitions of the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from star_ctr.features.encoding.exact_sums import ExactSums
from star_ctr.features.encoding.fitting import FENCE_ROWS, FENCE_SHARE, Scale
from star_ctr.features.encoding.vector_encoder import read_vectors
from star_ctr.features.encoding.vector_sums import VectorSums, find_size_class

FENCE_CLASSES = 7
"""Number of powers of two by which an outlier is larger than usual vectors: 2^7 = 128."""
_SCHEMA = "name string, size int, missing long, sums binary"


class VectorColumn(NamedTuple):
    """A column of vectors: its name, and the number of elements of each vector."""

    column: str
    length: int


class VectorScale(NamedTuple):
    """The scale of a vector.

    Attributes:
        mean: The mean of each element.
        scale: The root mean square of the differences from the mean, over all elements and rows.
        missing: The mean and the standard deviation of the missing-value flag.
    """

    mean: list[float]
    scale: float
    missing: Scale


def fit_vectors(train: DataFrame, columns: Mapping[str, VectorColumn]) -> dict[str, VectorScale]:
    """Fit the scale of each vector.

    Args:
        train: The training rows.
        columns: The column of each vector, by name.

    Returns:
        The finite scale of each vector, by name. `scale` is 0 only if all vectors are equal or missing.
    """
    if not columns:
        return {}

    def add(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        fits = {name: _Fit(source.length) for name, source in columns.items()}
        for batch in batches:
            for name, source in columns.items():
                fits[name].add(batch.column(source.column))
        yield _pack(fits)

    def merge(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        fits = {name: _Fit(source.length) for name, source in columns.items()}
        for batch in batches:
            for row in batch.to_pylist():
                fits[row["name"]].merge(row)
        yield _pack(fits)

    needed = sorted({source.column for source in columns.values()})
    partial = train.select(*(F.col(f"`{column}`") for column in needed)).mapInArrow(add, _SCHEMA)
    # Merge in a separate task, so that the driver receives few rows, whatever the number of partitions.
    fits = {name: _Fit(source.length) for name, source in columns.items()}
    for row in partial.repartition(1).mapInArrow(merge, _SCHEMA).collect():
        fits[row.name].merge(row.asDict())
    return {name: fit.finish() for name, fit in fits.items()}


class _Fit:
    """The sums of the vectors of a column, by the power of two of their size, and the number of missing vectors."""

    def __init__(self, length: int) -> None:
        self.length, self.missing = length, 0
        self.sums: dict[int, VectorSums] = {}

    def add(self, column: pa.Array) -> None:
        vectors, missing = read_vectors(column, self.length)
        self.missing += int(missing.sum())
        sizes = find_size_class(vectors)
        for size in np.unique(sizes).tolist():
            own = sizes == size
            self.sums.setdefault(size, VectorSums(self.length)).add(vectors if own.all() else vectors[own])

    def merge(self, row: Mapping[str, object]) -> None:
        self.missing += int(str(row["missing"]))
        if row["sums"] is not None:
            sums = self.sums.setdefault(int(str(row["size"])), VectorSums(self.length))
            sums.merge(VectorSums(self.length, bytes(row["sums"])))  # type: ignore[call-overload]

    def finish(self) -> VectorScale:
        counts = {size: sums.count for size, sums in self.sums.items()}
        present, limit = sum(counts.values()), _find_limit(counts)
        usual = VectorSums(self.length)
        for size, sums in self.sums.items():
            if size <= limit:
                usual.merge(sums)
        flags = ExactSums.of_flags(self.missing, present + self.missing)
        return VectorScale(usual.compute_mean(), usual.compute_scale(), Scale(flags.mean(), flags.deviation()))


def _find_limit(counts: Mapping[int, int]) -> float:
    """Return the size of the largest vectors that are not outliers."""
    total = sum(counts.values())
    if total < FENCE_ROWS:
        return np.inf
    allowed = max(1, total // FENCE_SHARE)
    larger = 0
    for size in sorted(counts, reverse=True):
        larger += counts[size]
        if larger > allowed:
            return size + FENCE_CLASSES
    return np.inf


def _pack(fits: Mapping[str, _Fit]) -> pa.RecordBatch:
    rows: list[tuple[str, int | None, int, bytes | None]] = []
    rows += [(name, None, fit.missing, None) for name, fit in fits.items()]
    rows += [(name, size, 0, sums.pack()) for name, fit in fits.items() for size, sums in sorted(fit.sums.items())]
    names, sizes, missing, sums = zip(*rows, strict=True)
    return pa.RecordBatch.from_arrays(
        [pa.array(names), pa.array(sizes, pa.int32()), pa.array(missing, pa.int64()), pa.array(sums, pa.binary())],
        names=["name", "size", "missing", "sums"],
    )
