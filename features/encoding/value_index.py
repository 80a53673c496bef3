"""Find the positions of values in the vocabulary of an embedding table, for batches of values."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

_MIN_RATIO = 4
"""Minimum number of known values per value of a batch, from which `ValueIndex` searches in sorted hashes."""


class ValueIndex:
    """An index from the known values of an embedding table to their positions.

    Arrow hashes all known values on each call of `index_in`. With a million known values and a batch of rows, this is
    nearly all of the encoding time. If there are many known values per value of the batch, `find` therefore uses binary
    search:

    1. Hash all known values and sort the hashes, once per index.
    2. Hash the distinct values of the batch, and look them up in the sorted hashes.
    3. Compare each value with the known value found, because different values may have the same hash.

    The sorted hashes take 16 bytes per known value. If two known values have the same hash, or if the batch is large,
    `find` uses Arrow.

    Args:
        values: The known values, without duplicates, in the order of their ids.
    """

    def __init__(self, values: pa.Array) -> None:
        self.values = values

    def find(self, values: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
        """Find the position of each value among the known values.

        Args:
            values: The values to find.

        Returns:
            int64 positions in the shape of `values`; null for a value that is not known. A null value has a position
            only if null is a known value.
        """
        if len(self.values) < _MIN_RATIO * len(values) or self._has_collisions:
            return pc.cast(pc.index_in(values, value_set=self.values), pa.int64())
        encoded = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        encoded = encoded.dictionary_encode()
        hashes, order = self._sorted_hashes
        distinct = encoded.dictionary
        positions = pa.array(order[np.minimum(np.searchsorted(hashes, _hash_values(distinct)), len(order) - 1)])
        # An unknown value may have the hash of a known one.
        is_equal = pc.equal(distinct, self.values.take(positions))
        found = pc.if_else(is_equal, positions, pa.scalar(None, pa.int64()))
        return found.take(encoded.indices)

    @cached_property
    def _sorted_hashes(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        """The hashes of the known values in ascending order, and the position of each."""
        hashes = _hash_values(self.values)
        order = np.argsort(hashes)
        return hashes[order], order

    @cached_property
    def _has_collisions(self) -> bool:
        """Whether two known values have the same hash."""
        hashes, _ = self._sorted_hashes
        return bool((hashes[1:] == hashes[:-1]).any())


def _hash_values(values: pa.Array) -> npt.NDArray[np.uint64]:
    objects: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return pd.util.hash_array(objects, categorize=False)
