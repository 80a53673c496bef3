"""Encode values and time gaps as ids of embedding tables: missing, unknown, or known.

An id is `PADDING` (0) for a missing value, `UNKNOWN` (1) for a value that is not in the vocabulary, and from
`FIRST_KNOWN` (2) for a known value.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from star_ctr.conf.contracts.encoded_row import FIRST_KNOWN, GAP_BUCKETS, PADDING, UNKNOWN
from star_ctr.features.encoding.value_index import ValueIndex

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
