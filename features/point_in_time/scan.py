"""Sorted scan: compute point-in-time state for query rows in one scan of sorted events.

A query row asks for features of its key, such as a user. Only events strictly before the cut of the query row may
count. The scan reads one table that holds both events and query rows:

1. All rows are sorted by key and then by time. The time of an event is the time at which it became known. The time of
   a query row is its cut. At equal times, query rows come before events.
2. The sorted rows are read once, batch by batch. A kernel keeps running state of the current key: sums of events, or
   the last events.
3. Each query row gets the state at its position. All events of its key before this position are strictly earlier than
   its cut, and all others are not. So a query row never sees an event at or after its cut.

If a key continues in the next batch, a kernel carries only its state, not all events. Memory is bounded by the size of
this state, however many events a key has. After the sort, the work is linear in the number of events and query rows.

This module uses NumPy and Arrow only. `scan_planner` sorts the rows with Spark and runs the scan in each partition.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Seq
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

IS_QUERY = "_is_query"
"""Boolean column: true for a query row, false for an event."""
TIME = "_t"
"""Column with the time of an event or the cut of a query row, in microseconds.

0 means that an event has no known time; it comes before everything.
"""

Ints = npt.NDArray[np.int64]


class Kernel(Protocol):
    """A computation over the sorted rows of a scan, with state that is carried between batches."""

    def feed(self, batch: pa.RecordBatch) -> list[pa.Array]:
        """Process the next batch; every batch must be fed exactly once, in order.

        Returns:
            The columns of the kernel, with one value per query row of the batch.
        """
        ...


def scan_batches(
    batches: Iterable[pa.RecordBatch], kernels: Seq[Kernel], keep: Seq[str], names: Seq[str]
) -> Iterator[pa.RecordBatch]:
    """Run kernels over sorted batches and yield the query rows with the results.

    Args:
        batches: Events and query rows with IS_QUERY, TIME and the columns that the kernels read, in the sort order that
            the module describes. A key may span several batches.
        kernels: The kernels to run.
        keep: Columns of the query rows to keep.
        names: Names of the kernels' columns, in the order of `kernels`.

    Yields:
        For each batch that has query rows, these rows with the columns `keep` and `names`.
    """
    for batch in batches:
        if batch.num_rows == 0:
            continue
        results = [array for kernel in kernels for array in kernel.feed(batch)]
        queries = pa.array(select_queries(batch))
        if len(queries):
            kept = [batch.column(name).take(queries) for name in keep]
            yield pa.RecordBatch.from_arrays([*kept, *results], names=[*keep, *names])


def select_queries(batch: pa.RecordBatch) -> Ints:
    """Return the row numbers of the query rows in a batch."""
    return np.flatnonzero(batch.column(IS_QUERY).to_numpy(zero_copy_only=False))


def join_carried(carried: pa.Table | None, batch: pa.RecordBatch, columns: Seq[str]) -> pa.Table:
    """Return the carried rows followed by `columns` of the batch, in contiguous memory."""
    rows = pa.Table.from_batches([batch]).select(columns)
    if carried is not None:
        rows = pa.concat_tables([carried, rows], promote_options="default")
    return rows.combine_chunks()


def encode_keys(column: pa.ChunkedArray | pa.Array) -> Ints:
    """Return an integer code for each row: equal values get equal codes, null gets -1."""
    encoded = pc.dictionary_encode(column)
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    return np.asarray(pc.fill_null(encoded.indices, -1), np.int64)


def find_run_starts(keys: Seq[Ints]) -> Ints:
    """Find the first row of each run of equal keys.

    Args:
        keys: One array of shape (n,) per key column, with codes from `encode_keys`. A run ends where any of them
            changes.

    Returns:
        For each row, the number of the first row of its run; shape (n,).
    """
    starts = np.zeros(len(keys[0]), np.int64)
    for key in keys:
        changes = np.flatnonzero(key[1:] != key[:-1]) + 1
        starts[changes] = changes
    return np.maximum.accumulate(starts)
