"""Encode values and time gaps as ids of embedding tables: missing, unknown, or known.

An id is `PADDING` (0) for a missing value, `UNKNOWN` (1) for a value that is not in the vocabulary, and from
`FIRST_KNOWN` (2) for a known value or a hash.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from star_ctr.conf.contracts.encoded_row import FIRST_KNOWN, GAP_BUCKETS, PADDING, UNKNOWN
from star_ctr.features.encoding.value_index import ValueIndex, hash_values

Ints = npt.NDArray[np.int32]


def encode_ids(values: pa.ChunkedArray | pa.Array, known: ValueIndex) -> Ints:
    """Encode values as ids of an embedding table.

    Args:
        values: The values of n rows.
        known: The known values of the embedding table.

    Returns:
        The ids, of shape (n,): `PADDING` for a missing value, `UNKNOWN` for a value that is not known.
    """
    ids = np.array(pc.fill_null(known.find(values), UNKNOWN))
    ids[np.asarray(pc.is_null(values))] = PADDING
    return ids


def hash_ids(values: pa.ChunkedArray | pa.Array, size: int) -> Ints:
    """Encode values as ids of a hashed embedding table, which has no vocabulary.

    The id of a value is 2 + h % (size - 2), where h is its hash (see `hash_values`).

    Args:
        values: The values of n rows.
        size: The number of ids of the embedding table, including `PADDING` and `UNKNOWN`.

    Returns:
        The ids, of shape (n,): `PADDING` for a missing value.
    """
    encoded = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    encoded = encoded.dictionary_encode()
    ids = FIRST_KNOWN + (hash_values(encoded.dictionary) % np.uint64(size - FIRST_KNOWN)).astype(np.int32)
    return np.asarray(pc.fill_null(pa.array(ids).take(encoded.indices), PADDING))


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
