"""Encoding features rows into the layout's fixed shapes: NumPy and Arrow only, a batch at a time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from star_ctr.conf.contracts.encoded_row import FIRST_KNOWN, GAP, GAP_BUCKETS, PADDING, UNKNOWN, Layout, NumericSource
from star_ctr.features.encoding.value_index import ValueIndex

CLIP = 4.0
"""Standardised numbers are kept within so many deviations: one wild value must not drown a row."""
_LARGE = 2.0**512

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


class RowEncoder:
    """Turns features rows into packed rows.

    `vocabularies`: for each embedding table its known values in the order of their ids (from FIRST_KNOWN on).
    """

    def __init__(self, layout: Layout, vocabularies: Mapping[str, pa.Array]) -> None:
        self.layout = layout
        self.known = {name: ValueIndex(values) for name, values in vocabularies.items()}

    def encode(self, rows: pa.Table) -> tuple[pa.Array, pa.Array]:
        """The packed integers and numbers of every row, each a fixed number of bytes (see `Layout`)."""
        n = rows.num_rows
        ints = np.zeros((n, self.layout.ints), dtype=np.int32)
        for place, field in enumerate(self.layout.categorical):
            ints[:, place] = self.encode_ids(rows[field.column], field.embedding)
        for place, bucket in enumerate(self.layout.buckets, start=len(self.layout.categorical)):
            ints[:, place] = encode_buckets(compute_numbers(rows, bucket.source), bucket.bounds)
        for sequence, offset in self.layout.iter_sequence_offsets():
            for side, start in sequence.iter_offsets(offset):
                column = rows[side.column].combine_chunks()
                if sequence.separator is not None:
                    column = pc.split_pattern(column, sequence.separator)
                lengths = self._fill(
                    column, side.embedding, ints[:, start : start + sequence.length], sequence.separator is None
                )
                ints[:, offset] = lengths
        floats = np.zeros((n, self.layout.floats), dtype=np.float32)
        for place, number in enumerate(self.layout.numeric):
            if number.std == 0.0:
                continue
            floats[:, place] = standardize(compute_numbers(rows, number.source), number.mean, number.std)
        return pack_rows(ints), pack_rows(floats)

    def encode_ids(self, values: pa.ChunkedArray | pa.Array, embedding: str) -> Ints:
        """The id of each value: PADDING for a missing one, UNKNOWN for one that training did not hold."""
        if embedding == GAP:
            return encode_gaps(values)
        ids = pc.fill_null(pc.add(self.known[embedding].find(values), FIRST_KNOWN), UNKNOWN)
        ids = pc.if_else(pc.is_null(values), PADDING, ids)
        return np.asarray(ids).astype(np.int32)

    def _fill(self, lists: pa.ListArray, embedding: str, target: Ints, most_recent: bool) -> Ints:
        """Write each list's ids into its row of `target` from the left; returns the lengths.

        A list that is too long keeps its end (`most_recent`) or its beginning.
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
    """Compute the numbers of a source: finite, or NaN if missing; an infinite value counts as missing."""
    x = _to_floats(rows[source.column])
    if source.denominator:
        with np.errstate(all="ignore"):
            x = (x + source.prior * source.base) / (_to_floats(rows[source.denominator]) + source.prior)
        x = _replace_infinite(x)
    return np.log1p(np.maximum(x, 0.0)) if source.log else x


def _to_floats(column: pa.ChunkedArray) -> Floats:
    return _replace_infinite(np.asarray(pc.fill_null(pc.cast(column, pa.float64()), np.nan), dtype=np.float64))


def _replace_infinite(x: Floats) -> Floats:
    """Replace infinite values by NaN."""
    infinite = np.isinf(x)
    return np.where(infinite, np.nan, x) if infinite.any() else x


def standardize(x: Floats, mean: float, std: float) -> Floats:
    """Return (x - mean) / std clipped to CLIP, 0 where `x` is NaN; does not overflow for any finite `x`."""
    if std > _LARGE:
        # The difference may overflow: dividing all three by the same power of two is exact and avoids it.
        x, mean, std = x / _LARGE, mean / _LARGE, std / _LARGE
    with np.errstate(over="ignore"):
        scaled = (x - mean) / std
    return np.where(np.isnan(scaled), 0.0, np.clip(scaled, -CLIP, CLIP))


def encode_buckets(x: Floats, bounds: list[float]) -> Ints:
    """The bucket of each number, counted from FIRST_KNOWN; UNKNOWN where it is missing."""
    ids = np.searchsorted(np.asarray(bounds, dtype=np.float64), x, side="right") + FIRST_KNOWN
    return np.where(np.isnan(x), UNKNOWN, ids).astype(np.int32)


def encode_gaps(seconds: pa.ChunkedArray | pa.Array) -> Ints:
    """Logarithmic buckets of time gaps: UNKNOWN without a time, else 2 + floor(log2(1 + seconds))."""
    x = np.asarray(pc.fill_null(seconds, np.nan), dtype=np.float64)
    known = np.minimum(FIRST_KNOWN + np.floor(np.log2(1.0 + np.maximum(np.nan_to_num(x), 0.0))), GAP_BUCKETS - 1)
    return np.where(np.isnan(x), UNKNOWN, known).astype(np.int32)


def pack_rows(matrix: npt.NDArray[np.int32] | npt.NDArray[np.float32]) -> pa.Array:
    """A binary array of the rows' bytes, without a copy of each row."""
    n, width = matrix.shape
    size = width * 4
    data = pa.py_buffer(np.ascontiguousarray(matrix).tobytes())
    offsets = pa.py_buffer(np.arange(0, (n + 1) * size, size, dtype=np.int32).tobytes() if size else bytes(4 * (n + 1)))
    return pa.BinaryArray.from_buffers(pa.binary(), n, [None, offsets, data])
