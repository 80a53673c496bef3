"""The kernel of behaviour sequences: for each request, its user's last events before it.

Within a batch, running counts of events turn "the last L events of this user" into a range of indices, and all ranges
are gathered at once. Across batches only the last user's last L events are carried.
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
"""The kinds that an event is of, a bit each."""
REQUEST_TIME = "_request_t"
"""The impression's own time, from which `gap` counts whatever the cut."""


@dataclass(frozen=True)
class SequencePlan:
    """One sequence to gather: events with any bit of `kinds`, at most `length`, `columns` taken along.

    `gap` and `behaviour`: whether there are lists of the time gaps in seconds, and of the kinds (the last of `names`
    that an event is), too.
    """

    kinds: tuple[int, ...]
    names: tuple[str, ...]
    length: int
    columns: tuple[str, ...]
    gap: bool = False
    behaviour: bool = False

    @property
    def mask(self) -> int:
        """The bits of all its kinds."""
        return sum(1 << kind for kind in self.kinds)


class LastEvents:
    """The list columns of sequences, one after the other: `columns`, gap, behaviour.

    A batch has `user`, TIME, REQUEST, REQUEST_TIME, KIND_BITS and the columns of `wanted`.
    """

    def __init__(self, user: str, wanted: Seq[SequencePlan]) -> None:
        self.user = user
        self.wanted = wanted
        columns = dict.fromkeys(column for sequence in wanted for column in sequence.columns)
        self.columns = list(dict.fromkeys((user, TIME, IS_QUERY, REQUEST_TIME, KIND_BITS, *columns)))
        self.carried: pa.Table | None = None

    def feed(self, batch: pa.RecordBatch) -> list[pa.Array]:
        """The lists of the batch's requests."""
        rows = join_carried(self.carried, batch, self.columns)
        requests = select_queries(batch) + (rows.num_rows - batch.num_rows)
        starts = find_run_starts([encode_keys(rows[self.user])])
        is_event = ~rows[IS_QUERY].to_numpy()
        kinds = pc.fill_null(rows[KIND_BITS], 0).to_numpy()
        needed = np.zeros(rows.num_rows, dtype=bool)
        arrays: list[pa.Array] = []
        for sequence in self.wanted:
            events = np.flatnonzero(is_event & ((kinds & sequence.mask) != 0))
            arrays += _gather(rows, sequence, kinds, events, requests, starts[requests])
            of_last_user = events[events >= starts[-1]]
            needed[of_last_user[-sequence.length :]] = True
        self.carried = rows.take(pa.array(np.flatnonzero(needed)))
        return arrays


def _gather(
    rows: pa.Table, sequence: SequencePlan, kinds: Ints, events: Ints, requests: Ints, user_starts: Ints
) -> Iterator[pa.Array]:
    """The list columns of one sequence: `events` and `requests` are row numbers, `user_starts` one a request."""
    stop = np.searchsorted(events, requests)  # events before each request, over the whole batch
    start = np.maximum(np.searchsorted(events, user_starts), stop - sequence.length)
    lengths = stop - start
    offsets = np.zeros(len(requests) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    # The ranges start..stop of all requests, one after the other.
    ranges = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], lengths)
    chosen = events[ranges]
    index, offset_array = pa.array(chosen), pa.array(offsets, type=pa.int32())
    for name in sequence.columns:
        yield pa.ListArray.from_arrays(offset_array, rows[name].combine_chunks().take(index))
    if sequence.gap:
        times = rows[TIME].to_numpy()[chosen]
        own = np.repeat(rows[REQUEST_TIME].take(pa.array(requests)).to_numpy(), lengths)
        yield pa.ListArray.from_arrays(offset_array, pa.array((own - times) / 1e6, mask=times == 0))
    if sequence.behaviour:
        bits = kinds[chosen]
        which = np.zeros(len(chosen), dtype=np.int32)
        for position, kind in enumerate(sequence.kinds):
            which[(bits >> kind) & 1 == 1] = position
        names = pa.DictionaryArray.from_arrays(pa.array(which), pa.array(sequence.names)).dictionary_decode()
        yield pa.ListArray.from_arrays(offset_array, names)
