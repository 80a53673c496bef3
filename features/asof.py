"""The kernel of the sorted pass: for each request, its user's last events before it. NumPy and Arrow only.

The input is a stream of batches sorted by (user, time, requests before events of the same time), so that
the events before a request are exactly those of strictly earlier time. Within a batch, running counts of
events turn "the last L events of this user" into a range of indices, and all ranges are gathered at once. Across
batches only the last user's last L events are carried: memory is bounded whatever a user's history, and
the work is linear in events and requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

KIND_BITS = "_kinds"
REQUEST = "_request"
TIME = "_t"


@dataclass(frozen=True)
class Wanted:
    """One sequence to gather: events with any bit of `kinds`, at most `length`, `columns` taken along.

    `out` gives the name of each output column; `gap` and `behaviour` name the columns of the time gaps in
    seconds and of the kinds (the last of `names` that an event is), where wanted.
    """

    kinds: tuple[int, ...]
    names: tuple[str, ...]
    length: int
    columns: dict[str, str]
    gap: str | None = None
    behaviour: str | None = None

    @property
    def mask(self) -> int:
        """The bits of all its kinds."""
        return sum(1 << kind for kind in self.kinds)


def last_events(
    batches: Iterable[pa.RecordBatch], user: str, wanted: list[Wanted], keep: list[str]
) -> Iterator[pa.RecordBatch]:
    """For each batch, the requests in it: columns `keep`, then the list columns of every wanted sequence.

    A batch has `user`, TIME (microseconds; 0: unknown, before everything), REQUEST (is it a request), KIND_BITS and
    the columns that `keep` and `wanted` name.
    """
    carried: pa.Table | None = None
    for batch in batches:
        rows = pa.Table.from_batches([batch])
        rows = (pa.concat_tables([carried, rows]) if carried is not None else rows).combine_chunks()
        if rows.num_rows == 0:
            continue
        users = rows[user]
        changes = np.flatnonzero(pc.not_equal(users[1:], users[:-1]).to_numpy()) + 1
        starts = np.zeros(rows.num_rows, dtype=np.int64)
        starts[changes] = changes
        starts = np.maximum.accumulate(starts)  # the row at which each row's user begins
        is_request = rows[REQUEST].to_numpy()
        requests = np.flatnonzero(is_request)
        kinds = rows[KIND_BITS].to_numpy()
        arrays = [rows[name].combine_chunks().take(pa.array(requests)) for name in keep]
        names = list(keep)
        needed = np.zeros(rows.num_rows, dtype=bool)
        for sequence in wanted:
            events = np.flatnonzero(~is_request & ((kinds & sequence.mask) != 0))
            for name, array in _gather(rows, sequence, events, requests, starts[requests]):
                names.append(name)
                arrays.append(array)
            of_last_user = events[events >= starts[-1]]
            needed[of_last_user[-sequence.length :]] = True
        carried = rows.take(pa.array(np.flatnonzero(needed)))
        if len(requests):
            yield pa.RecordBatch.from_arrays([_flat(a) for a in arrays], names=names)


def _flat(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _gather(
    rows: pa.Table,
    sequence: Wanted,
    events: npt.NDArray[np.int64],
    requests: npt.NDArray[np.int64],
    user_starts: npt.NDArray[np.int64],
) -> Iterator[tuple[str, pa.Array]]:
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
    for name, out in sequence.columns.items():
        yield out, pa.ListArray.from_arrays(offset_array, _flat(rows[name]).take(index))
    times = rows[TIME].to_numpy()
    if sequence.gap is not None:
        # From the impression's own time, which `gap` counts from whatever the cut.
        own = np.repeat(rows[REQUEST_TIME].to_numpy()[requests], lengths)
        gaps = pa.array((own - times[chosen]) / 1e6, mask=times[chosen] == 0)
        yield sequence.gap, pa.ListArray.from_arrays(offset_array, gaps)
    if sequence.behaviour is not None:
        bits = rows[KIND_BITS].to_numpy()[chosen]
        which = np.zeros(len(chosen), dtype=np.int32)
        for position, kind in enumerate(sequence.kinds):
            which[(bits >> kind) & 1 == 1] = position
        names = pa.DictionaryArray.from_arrays(pa.array(which), pa.array(sequence.names)).dictionary_decode()
        yield sequence.behaviour, pa.ListArray.from_arrays(offset_array, names)


REQUEST_TIME = "_request_t"
