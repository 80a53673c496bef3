"""Scan kernel of behaviour sequences: the last events of the user before each query row.

Within a batch, the events of a sequence are numbered in sort order. The last L events of a user before a query row are
then a range of these numbers, and the ranges of all query rows are gathered at once. Between batches, the kernel
carries only the last L events of the last user for each sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from star_ctr.features.point_in_time.scan import (
    IS_QUERY,
    TIME,
    Ints,
    encode_keys,
    find_run_starts,
    join_carried,
    select_queries,
)

KIND_BITS = "_kinds"
"""Event column with the kinds of the event, one bit per kind of each sequence."""
QUERY_TIME = "_query_time"
"""Query-row column with the time of the impression, in microseconds. `gap` is relative to it, whatever the cut."""


@dataclass(frozen=True)
class SequencePlan:
    """A sequence to collect: the last events of a user that have any of some kinds.

    Attributes:
        kinds: Bit numbers of the kinds in KIND_BITS.
        names: Names of the kinds, in the same order.
        length: Maximum number of events.
        columns: Event columns to collect, one list column each.
        gap: Whether to add a list of the time gaps from event to impression, in seconds (null for an event without a
            time).
        behaviour: Whether to add a list of the kinds of the events. If an event has several of `kinds`, the last one in
            `names` is used.
    """

    kinds: tuple[int, ...]
    names: tuple[str, ...]
    length: int
    columns: tuple[str, ...]
    gap: bool = False
    behaviour: bool = False

    @property
    def mask(self) -> int:
        """The bits of all kinds of the sequence."""
        return sum(1 << kind for kind in self.kinds)


class LastEvents:
    """Scan kernel that returns the list columns of sequences: for each sequence its `columns`, gap and behaviour.

    Batches must have the columns of the key, TIME, IS_QUERY, QUERY_TIME, KIND_BITS and the columns of all plans.

    Args:
        key: The columns of the scan's key: the user, and possibly the day.
        plans: The sequences to collect.
    """

    def __init__(self, key: Seq[str], plans: Seq[SequencePlan]) -> None:
        self.key = list(key)
        self.plans = plans
        columns = dict.fromkeys(column for plan in plans for column in plan.columns)
        self.columns = list(dict.fromkeys((*key, TIME, IS_QUERY, QUERY_TIME, KIND_BITS, *columns)))
        self.carried: pa.Table | None = None

    def feed(self, batch: pa.RecordBatch) -> list[pa.Array]:
        """Return the list columns for the query rows of the next batch."""
        rows = join_carried(self.carried, batch, self.columns)
        queries = select_queries(batch) + (rows.num_rows - batch.num_rows)
        starts = find_run_starts([encode_keys(rows[column]) for column in self.key])
        is_event = ~rows[IS_QUERY].to_numpy()
        kinds = pc.fill_null(rows[KIND_BITS], 0).to_numpy()
        is_carried = np.zeros(rows.num_rows, dtype=bool)
        arrays: list[pa.Array] = []
        for plan in self.plans:
            events = np.flatnonzero(is_event & ((kinds & plan.mask) != 0))
            arrays += _gather(rows, plan, kinds, events, queries, starts[queries])
            last_user_events = events[events >= starts[-1]]
            is_carried[last_user_events[-plan.length :]] = True
        self.carried = rows.take(pa.array(np.flatnonzero(is_carried)))
        return arrays


def _gather(
    rows: pa.Table, plan: SequencePlan, kinds: Ints, events: Ints, queries: Ints, user_starts: Ints
) -> Iterator[pa.Array]:
    """Yield the list columns of one sequence.

    Args:
        rows: Carried rows and the batch, n rows in sort order.
        plan: The sequence.
        kinds: (n,) kind bits of each row, 0 for query rows.
        events: Row numbers of the events of the sequence.
        queries: (q,) row numbers of the query rows.
        user_starts: (q,) first row number of the user of each query row.
    """
    stop = np.searchsorted(events, queries)  # number of events before each query row, of all users
    start = np.maximum(np.searchsorted(events, user_starts), stop - plan.length)
    lengths = stop - start
    offsets = np.zeros(len(queries) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    # Concatenates the ranges from start to stop of all query rows.
    ranges = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], lengths)
    chosen = events[ranges]
    index, offset_array = pa.array(chosen), pa.array(offsets, type=pa.int32())
    for name in plan.columns:
        yield pa.ListArray.from_arrays(offset_array, rows[name].combine_chunks().take(index))
    if plan.gap:
        times = rows[TIME].to_numpy()[chosen]
        query_times = np.repeat(rows[QUERY_TIME].take(pa.array(queries)).to_numpy(), lengths)
        yield pa.ListArray.from_arrays(offset_array, pa.array((query_times - times) / 1e6, mask=times == 0))
    if plan.behaviour:
        bits = kinds[chosen]
        kind_index = np.zeros(len(chosen), dtype=np.int32)
        for position, kind in enumerate(plan.kinds):
            kind_index[(bits >> kind) & 1 == 1] = position
        names = pa.DictionaryArray.from_arrays(pa.array(kind_index), pa.array(plan.names)).dictionary_decode()
        yield pa.ListArray.from_arrays(offset_array, names)
