"""Look up the ids of values in the vocabulary of an embedding table, for batches of values.

The index consists of three arrays, sorted by hash: the hash, id and text of each known value. They may be
memory-mapped, so that all processes of a machine share them. A lookup has two steps:

1. Hash the distinct values of a batch, and find them in the sorted hashes by binary search.
2. Compare each value with the known value found. If they differ, continue with the next known value of the same hash.

The comparison makes the result exact: a hash collision only costs another comparison.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

INDEX_SCHEMA = pa.schema([("hash", pa.uint64()), ("id", pa.int32()), ("value", pa.large_string())])
"""The columns of the entries of an index, sorted by hash."""
_VALUES_PER_HASHING = 1 << 18
"""Number of values that are hashed at once, which limits memory: each value is copied into a Python object."""


def make_entries(values: pa.Array | pa.ChunkedArray, ids: npt.NDArray[np.int32]) -> pa.RecordBatch:
    """Make the entries of an index.

    Args:
        values: The known values, text of length n, without nulls and duplicates.
        ids: The id of each value, of shape (n,).

    Returns:
        The entries, with INDEX_SCHEMA. Entries with the same hash are in the order of `values`.
    """
    texts = values.cast(pa.large_string())
    texts = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    hashes = hash_values(texts)
    order = np.argsort(hashes, kind="stable")
    return pa.RecordBatch.from_arrays([pa.array(hashes[order]), pa.array(ids[order]), texts.take(pa.array(order))],
                                      schema=INDEX_SCHEMA)  # fmt: skip


class ValueIndex:
    """An index from the known values of an embedding table to their ids.

    Args:
        entries: The entries from `make_entries`, possibly memory-mapped.
    """

    def __init__(self, entries: pa.RecordBatch) -> None:
        self._hashes: npt.NDArray[np.uint64] = entries.column("hash").to_numpy(zero_copy_only=True)
        self._ids: npt.NDArray[np.int32] = entries.column("id").to_numpy(zero_copy_only=True)
        self._values = entries.column("value")

    def find(self, values: pa.ChunkedArray | pa.Array) -> pa.Array:
        """Find the id of each value.

        Args:
            values: The values to find, n texts.

        Returns:
            n int32 ids; null for a missing value and for a value that is not known.
        """
        encoded = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        encoded = encoded.dictionary_encode()
        return self._find_distinct(encoded.dictionary.cast(pa.large_string())).take(encoded.indices)

    def _find_distinct(self, values: pa.Array) -> pa.Array:
        """Find the ids of texts without nulls."""
        ids = np.zeros(len(values), dtype=np.int32)
        is_known = np.zeros(len(values), dtype=bool)
        hashes = hash_values(values)
        # The position of the entry to compare with, for each value that may still be known.
        value = np.argsort(hashes)  # in this order, neighboring lookups touch the same pages
        position = np.searchsorted(self._hashes, hashes[value])
        while len(value):
            is_inside = position < len(self._hashes)
            value, position = value[is_inside], position[is_inside]
            has_hash = self._hashes[position] == hashes[value]
            value, position = value[has_hash], position[has_hash]
            equal = pc.equal(values.take(pa.array(value)), self._values.take(pa.array(position)))
            is_equal = equal.to_numpy(zero_copy_only=False).astype(bool)
            ids[value[is_equal]] = self._ids[position[is_equal]]
            is_known[value[is_equal]] = True
            value, position = value[~is_equal], position[~is_equal] + 1
        return pa.array(ids, mask=~is_known)


def index_values(values: pa.Array, ids: npt.NDArray[np.int32]) -> ValueIndex:
    """Build an index in the memory of this process; see `make_entries` for the arguments."""
    return ValueIndex(make_entries(values, ids))


def hash_values(values: pa.Array) -> npt.NDArray[np.uint64]:
    """Hash texts: SipHash-2-4 of their UTF-8 bytes with the key `0123456789123456`, mixed as in SplitMix64.

    This is how pandas hashes strings. Stored ids depend on it (`encode: hash`), so a test compares it with an
    independent implementation.

    Args:
        values: n texts, without nulls.

    Returns:
        The hashes, of shape (n,). They are the same on all machines.
    """
    hashes = np.empty(len(values), dtype=np.uint64)
    for start in range(0, len(values), _VALUES_PER_HASHING):
        objects: npt.NDArray[Any] = values.slice(start, _VALUES_PER_HASHING).to_numpy(zero_copy_only=False)
        hashes[start : start + len(objects)] = pd.util.hash_array(objects, categorize=False)
    return hashes
