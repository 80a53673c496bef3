"""Finding values among the known ones of an embedding table, many at a time, however many are known."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

_MANY = 4
"""So many times as many known values as wanted ones: then it is the wanted ones that are worth hashing."""


class ValueIndex:
    """Values in the order of their ids; `find` tells where others stand among them.

    Arrow hashes all known values anew whenever it is asked, which for a million of them and a batch of rows is nearly
    all of the time that encoding takes. Where they are many, their hashes are therefore sorted once and searched.
    """

    def __init__(self, values: pa.Array) -> None:
        self.values = values

    def find(self, values: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
        """The position of each value (int64), null for one that is not known; a null is known only if it is a value."""
        if len(self.values) < _MANY * len(values) or self._has_collisions:
            return pc.cast(pc.index_in(values, value_set=self.values), pa.int64())
        encoded = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        encoded = encoded.dictionary_encode()
        hashes, order = self._sorted_hashes
        wanted = encoded.dictionary
        at = pa.array(order[np.minimum(np.searchsorted(hashes, _hash_values(wanted)), len(order) - 1)])
        # Another value may have the hash of a known one.
        found = pc.if_else(pc.equal(wanted, self.values.take(at)), at, pa.scalar(None, pa.int64()))
        return found.take(encoded.indices)

    @cached_property
    def _sorted_hashes(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        hashes = _hash_values(self.values)
        order = np.argsort(hashes)
        return hashes[order], order

    @cached_property
    def _has_collisions(self) -> bool:
        hashes, _ = self._sorted_hashes
        return bool((hashes[1:] == hashes[:-1]).any())


def _hash_values(values: pa.Array) -> npt.NDArray[np.uint64]:
    objects: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return pd.util.hash_array(objects, categorize=False)
