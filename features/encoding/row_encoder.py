"""Encode batches of feature rows into the fixed-size rows of a layout. Requires only NumPy and Arrow."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from star_ctr.conf.contracts.encoded_row import (
    FIRST_KNOWN,
    GAP_BUCKETS,
    GAP_TABLE,
    PADDING,
    UNKNOWN,
    Layout,
    NumericSource,
)
from star_ctr.features.encoding.value_index import ValueIndex

CLIP = 4.0
"""Limit of standardized numbers, in standard deviations, so that one extreme value does not dominate a row."""
_LARGE = 2.0**512
"""Standard deviation above which `standardize` divides its inputs, to avoid overflow."""

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


class RowEncoder:
    """Encoder of feature rows into packed integers and floats.

    Args:
        layout: The layout of the encoded rows.
        vocabularies: The known values of each embedding table, by name, in the order of their ids (from `FIRST_KNOWN`).
    """

    def __init__(self, layout: Layout, vocabularies: Mapping[str, pa.Array]) -> None:
        self.layout = layout
        self.known = {name: ValueIndex(values) for name, values in vocabularies.items()}

    def encode(self, rows: pa.Table) -> tuple[pa.Array, pa.Array]:
        """Encode a batch of rows.

        Args:
            rows: Feature rows with the columns `layout.columns`.

        Returns:
            Two binary arrays with one value per row: `layout.int_count` packed int32 values, and `layout.float_count`
            packed float32 values.
        """
        n = rows.num_rows
        ints = np.zeros((n, self.layout.int_count), dtype=np.int32)
        for index, field in enumerate(self.layout.categorical):
            ints[:, index] = self.encode_ids(rows[field.column], field.embedding)
        for index, bucket in enumerate(self.layout.buckets, start=len(self.layout.categorical)):
            ints[:, index] = encode_buckets(compute_numbers(rows, bucket.source), bucket.bounds)
        for sequence, offset in self.layout.iter_sequence_offsets():
            for side, start in sequence.iter_offsets(offset):
                column = rows[side.column].combine_chunks()
                if sequence.separator is not None:
                    column = pc.split_pattern(column, sequence.separator)
                lengths = self._fill(
                    column, side.embedding, ints[:, start : start + sequence.length], sequence.separator is None
                )
                ints[:, offset] = lengths
        floats = np.zeros((n, self.layout.float_count), dtype=np.float32)
        for index, number in enumerate(self.layout.numeric):
            if number.std == 0.0:
                continue
            floats[:, index] = standardize(compute_numbers(rows, number.source), number.mean, number.std)
        return pack_rows(ints), pack_rows(floats)

    def encode_ids(self, values: pa.ChunkedArray | pa.Array, embedding: str) -> Ints:
        """Encode values as ids of an embedding table.

        Args:
            values: The values of n rows; seconds for the table of time gaps.
            embedding: The name of the embedding table.

        Returns:
            The ids, of shape (n,): `PADDING` for a missing value, `UNKNOWN` for a value that is not in the vocabulary.
            Time gaps are encoded by `encode_gaps`.
        """
        if embedding == GAP_TABLE:
            return encode_gaps(values)
        ids = pc.fill_null(pc.add(self.known[embedding].find(values), FIRST_KNOWN), UNKNOWN)
        ids = pc.if_else(pc.is_null(values), PADDING, ids)
        return np.asarray(ids).astype(np.int32)

    def _fill(self, lists: pa.ListArray, embedding: str, target: Ints, most_recent: bool) -> Ints:
        """Write the ids of each list into its row of `target`, from the left.

        Args:
            lists: The lists of values, one per row; null is an empty list.
            embedding: The name of the embedding whose ids are used.
            target: Output array of shape (rows, maximum length); positions after the end of a list are unchanged.
            most_recent: Whether a list that is longer than the row keeps its last values instead of its first ones.

        Returns:
            The length of each list after the cut.
        """
        length = target.shape[1]
        lists = pc.fill_null(lists, pa.scalar([], type=lists.type)) if lists.null_count else lists
        sizes = np.asarray(pc.list_value_length(lists)).astype(np.int64)
        ids = self.encode_ids(pc.list_flatten(lists), embedding)
        starts = np.cumsum(sizes) - sizes
        kept = np.minimum(sizes, length)
        first = starts + (sizes - kept if most_recent else 0)
        within = np.arange(kept.sum()) - np.repeat(np.cumsum(kept) - kept, kept)
        target[np.repeat(np.arange(len(sizes)), kept), within] = ids[np.repeat(first, kept) + within]
        return kept.astype(np.int32)


def compute_numbers(rows: pa.Table, source: NumericSource) -> Floats:
    """Compute a number of each row: a column or a smoothed rate, optionally as log(1 + x).

    Args:
        rows: Feature rows with the columns of the source.
        source: The columns of the number, and how it is computed from them.

    Returns:
        Finite values of shape (n,), or NaN where a value is missing. Infinite values count as missing.
    """
    x = _to_floats(rows[source.column])
    if source.denominator:
        with np.errstate(all="ignore"):
            x = (x + source.prior * source.base) / (_to_floats(rows[source.denominator]) + source.prior)
        x = _replace_infinite(x)
    return np.log1p(np.maximum(x, 0.0)) if source.log else x


def _to_floats(column: pa.ChunkedArray) -> Floats:
    """Convert a column to doubles; missing and infinite values become NaN."""
    return _replace_infinite(np.asarray(pc.fill_null(pc.cast(column, pa.float64()), np.nan), dtype=np.float64))


def _replace_infinite(x: Floats) -> Floats:
    """Replace infinite values by NaN."""
    infinite = np.isinf(x)
    return np.where(infinite, np.nan, x) if infinite.any() else x


def standardize(x: Floats, mean: float, std: float) -> Floats:
    """Standardize numbers and clip them to `CLIP` standard deviations, without overflow.

    Args:
        x: Finite numbers or NaN, of shape (n,).
        mean: The mean.
        std: The standard deviation, greater than 0.

    Returns:
        (x - mean) / std within [-CLIP, CLIP], of shape (n,); 0 where `x` is NaN.
    """
    if std > _LARGE:
        # The difference may overflow. Dividing all three by the same power of two avoids this and is exact.
        x, mean, std = x / _LARGE, mean / _LARGE, std / _LARGE
    with np.errstate(over="ignore"):
        scaled = (x - mean) / std
    return np.where(np.isnan(scaled), 0.0, np.clip(scaled, -CLIP, CLIP))


def encode_buckets(x: Floats, bounds: list[float]) -> Ints:
    """Encode numbers as bucket ids.

    Args:
        x: Numbers or NaN, of shape (n,).
        bounds: The bucket bounds in ascending order; a number that equals a bound belongs to the bucket above it.

    Returns:
        The ids, of shape (n,), from `FIRST_KNOWN`; `UNKNOWN` where `x` is NaN.
    """
    ids = np.searchsorted(np.asarray(bounds, dtype=np.float64), x, side="right") + FIRST_KNOWN
    return np.where(np.isnan(x), UNKNOWN, ids).astype(np.int32)


def encode_gaps(seconds: pa.ChunkedArray | pa.Array) -> Ints:
    """Encode time gaps in logarithmic buckets.

    Args:
        seconds: The gaps of n events, in seconds; null for an event without a time.

    Returns:
        The ids, of shape (n,): `UNKNOWN` without a time, else 2 + floor(log2(1 + seconds)), at most `GAP_BUCKETS` - 1.
    """
    x = np.asarray(pc.fill_null(seconds, np.nan), dtype=np.float64)
    known = np.minimum(FIRST_KNOWN + np.floor(np.log2(1.0 + np.maximum(np.nan_to_num(x), 0.0))), GAP_BUCKETS - 1)
    return np.where(np.isnan(x), UNKNOWN, known).astype(np.int32)


def pack_rows(matrix: npt.NDArray[np.int32] | npt.NDArray[np.float32]) -> pa.Array:
    """Pack each row of a matrix into bytes, without copying rows one by one.

    Args:
        matrix: int32 or float32 values, of shape (n, width).

    Returns:
        A binary array of length n, with 4 * width bytes per value.
    """
    n, width = matrix.shape
    size = width * 4
    data = pa.py_buffer(np.ascontiguousarray(matrix).tobytes())
    offsets = pa.py_buffer(np.arange(0, (n + 1) * size, size, dtype=np.int32).tobytes() if size else bytes(4 * (n + 1)))
    return pa.BinaryArray.from_buffers(pa.binary(), n, [None, offsets, data])
