"""Encode vectors: subtract the mean of each element, divide by one scale, and shorten vectors that are too long."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from star_ctr.conf.contracts.encoded_row import VectorField
from star_ctr.features.encoding.number_encoder import CLIP

Singles = npt.NDArray[np.float32]
_BLOCK = 1 << 18
"""Numbers to encode at once, which limits memory."""


def read_vectors(column: pa.ChunkedArray | pa.Array, length: int) -> tuple[Singles, npt.NDArray[np.bool_]]:
    """Read a column of vectors.

    Args:
        column: n arrays of `length` finite numbers, or nulls, from `parse_vectors`.
        length: The number of elements of each vector.

    Returns:
        The vectors that are not missing, of shape (m, length), and whether each of the n vectors is missing.
    """
    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    missing = np.asarray(pc.is_null(lists))
    sizes = pc.min_max(pc.list_value_length(lists)).as_py()
    assert {sizes["min"], sizes["max"]} <= {None, length}, f"vectors of {length} elements, but some have other lengths"
    values = pc.cast(pc.list_flatten(lists), pa.float32())
    numbers: Singles = values.to_numpy(zero_copy_only=values.null_count == 0)
    return numbers.reshape(len(missing) - int(missing.sum()), length), missing


def encode_vectors(column: pa.ChunkedArray | pa.Array, field: VectorField, target: Singles) -> None:
    """Write standardized vectors.

    A vector becomes d = (x - mean) / scale. If the root mean square of d exceeds `CLIP`, d is multiplied by the number
    that makes it equal to `CLIP`. Clipping each element would change the direction of a vector. For vectors of length
    1, both are the same.

    Args:
        column: The vectors of n rows, from `parse_vectors`.
        field: The vector's field of the layout.
        target: The output of shape (n, `field.length`), filled with zeros. Rows of missing vectors are not changed.
    """
    if field.scale == 0.0:
        return
    vectors, missing = read_vectors(column, field.length)
    places = np.flatnonzero(~missing)
    mean = np.asarray(field.mean, dtype=np.float64)
    for part in iter_blocks(len(vectors), field.length):
        scaled = (vectors[part].astype(np.float64) - mean) / field.scale
        excess = np.sqrt(np.square(scaled).mean(axis=1)) / CLIP
        target[places[part]] = scaled / np.maximum(excess, 1.0)[:, None]


def iter_blocks(rows: int, length: int) -> Iterator[slice]:
    """Yield slices of rows that contain a limited number of elements.

    Args:
        rows: The number of rows.
        length: The number of elements per row.
    """
    size = max(_BLOCK // length, 1)
    for start in range(0, rows, size):
        yield slice(start, start + size)
