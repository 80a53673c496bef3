"""Encode batches of feature rows into the fixed-size rows of a layout. Requires only NumPy and Arrow."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from star_ctr.conf.contracts.encoded_row import GAP_TABLE, Layout
from star_ctr.features.encoding.crosses import combine_values
from star_ctr.features.encoding.id_encoder import Ints, encode_gaps, encode_ids, hash_ids
from star_ctr.features.encoding.number_encoder import compute_numbers, encode_buckets, standardize
from star_ctr.features.encoding.value_index import ValueIndex, index_values
from star_ctr.features.encoding.vector_encoder import encode_vectors


class RowEncoder:
    """Encoder of feature rows into packed integers and floats.

    Args:
        layout: The layout of the encoded rows.
        known: The index of the known values of each embedding table with a vocabulary, by name.
    """

    def __init__(self, layout: Layout, known: Mapping[str, ValueIndex]) -> None:
        self.layout = layout
        nothing = index_values(pa.array([], pa.string()), np.zeros(0, dtype=np.int32))
        self.known = {name: known.get(name, nothing) for name in layout.embeddings}
        self._hashed = frozenset(layout.hashed)

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
            values = combine_values([rows[column] for column in field.columns])
            ints[:, index] = self._encode_values(values, field.embedding)
        for index, bucket in enumerate(self.layout.buckets, start=len(self.layout.categorical)):
            ints[:, index] = encode_buckets(compute_numbers(rows, bucket.source), bucket.bounds)
        for sequence, offset in self.layout.iter_sequence_offsets():
            for side, start in sequence.iter_offsets(offset):
                column = combine_values([rows[name] for name in side.columns]).combine_chunks()
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
        for vector, offset in self.layout.iter_vector_offsets():
            encode_vectors(rows[vector.column], vector, floats[:, offset : offset + vector.length])
        return pack_rows(ints), pack_rows(floats)

    def _encode_values(self, values: pa.ChunkedArray | pa.Array, embedding: str) -> Ints:
        """Encode values as ids of an embedding table; for the table of time gaps, the values are seconds."""
        if embedding == GAP_TABLE:
            return encode_gaps(values)
        if embedding in self._hashed:
            return hash_ids(values, self.layout.embeddings[embedding])
        return encode_ids(values, self.known[embedding])

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
        ids = self._encode_values(pc.list_flatten(lists), embedding)
        starts = np.cumsum(sizes) - sizes
        kept = np.minimum(sizes, length)
        first = starts + (sizes - kept if most_recent else 0)
        within = np.arange(kept.sum()) - np.repeat(np.cumsum(kept) - kept, kept)
        target[np.repeat(np.arange(len(sizes)), kept), within] = ids[np.repeat(first, kept) + within]
        return kept.astype(np.int32)


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
