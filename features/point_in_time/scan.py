"""The stream of a sorted pass: for each request, what is known of the strictly earlier events with its key.

A pass unites events and requests, sorted by (key, time, requests before events of the same time), so that the events
before a request are exactly those of strictly earlier time. It is read once, batch by batch; what a kernel needs of a
key whose events began in an earlier batch, it carries along: memory is bounded whatever a key's history, and the work
is linear in events and requests. NumPy and Arrow only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Seq
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

IS_QUERY = "_request"
"""Is it a request, and not an event?"""
TIME = "_t"
"""Microseconds; 0: unknown, before everything. Of a request its cut."""

Ints = npt.NDArray[np.int64]


class Kernel(Protocol):
    """What is gathered for requests. It is fed every batch, in order, each once."""

    def feed(self, batch: pa.RecordBatch) -> list[pa.Array]:
        """Its columns, a value for each request of the batch."""
        ...


def scan_batches(
    batches: Iterable[pa.RecordBatch], kernels: Seq[Kernel], keep: Seq[str], names: Seq[str]
) -> Iterator[pa.RecordBatch]:
    """For each batch the requests in it: their columns `keep`, then those of the kernels under `names`."""
    for batch in batches:
        if batch.num_rows == 0:
            continue
        found = [array for kernel in kernels for array in kernel.feed(batch)]
        requests = pa.array(select_queries(batch))
        if len(requests):
            kept = [batch.column(name).take(requests) for name in keep]
            yield pa.RecordBatch.from_arrays([*kept, *found], names=[*keep, *names])


def select_queries(batch: pa.RecordBatch) -> Ints:
    """The rows that are requests."""
    return np.flatnonzero(batch.column(IS_QUERY).to_numpy(zero_copy_only=False))


def join_carried(carried: pa.Table | None, batch: pa.RecordBatch, columns: Seq[str]) -> pa.Table:
    """What is carried and then `columns` of the batch, in one piece."""
    rows = pa.Table.from_batches([batch]).select(columns)
    if carried is not None:
        rows = pa.concat_tables([carried, rows], promote_options="default")
    return rows.combine_chunks()


def encode_keys(column: pa.ChunkedArray | pa.Array) -> Ints:
    """A number for each row, the same where the values are the same; -1 where there is none."""
    encoded = pc.dictionary_encode(column)
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    return np.asarray(pc.fill_null(encoded.indices, -1), np.int64)


def find_run_starts(keys: Seq[Ints]) -> Ints:
    """The row at which each row's run of the same keys (as `encode_keys`) begins."""
    starts = np.zeros(len(keys[0]), np.int64)
    for key in keys:
        changes = np.flatnonzero(key[1:] != key[:-1]) + 1
        starts[changes] = changes
    return np.maximum.accumulate(starts)
