"""The kernel of running statistics: for each request, sums over all earlier events of its groups.

A pass has one key; the groups of its statistics are those of the key, each cut further by columns of its own. Within a
batch, rows are ordered by group and their weights summed up along them. Across batches the sums of the last key are
carried, by those columns, as if each were one event. Names only select columns of a batch. Carried state is kept in
separate dictionaries, so names cannot collide.

A cut may lie before a request's own time: at the start of a day. What is carried is then summed by day, with
the last time of each, so that every sum lies before such a cut or not.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from star_ctr.features.point_in_time.events import SCALE, UNTIMED
from star_ctr.features.point_in_time.scan import (
    IS_QUERY,
    TIME,
    Ints,
    encode_keys,
    find_run_starts,
    join_carried,
    select_queries,
)

Floats = npt.NDArray[np.float64]
CUT = "_cut"
"""Of a request: an earlier cut than TIME, either TIME or the start of a day."""
DAY = "_day"
"""Of an event: its day, any number for it."""
_LOW_BITS = 32
_LOW = (1 << _LOW_BITS) - 1
_SAFE = 1 << 62


@dataclass(frozen=True)
class CountPlan:
    """A statistic: the columns of its group, the weights that are summed, and those whose last event's time is told.

    `cut`: TIME or CUT, before which events count.
    """

    by: tuple[str, ...]
    sums: tuple[str, ...]
    since: tuple[str, ...] = ()
    cut: str = TIME


class RunningCounts:
    """The columns of statistics, one after the other: sums (of events, not millionths), then seconds since the last.

    A batch has TIME, REQUEST, the columns of `key` and of the groups, weights in millionths (null: none), and CUT and
    DAY if a statistic has that cut. All are null for a request that lacks a column of the group; the seconds where
    there was no event with a time, too.
    """

    def __init__(self, key: Seq[str], statistics: Seq[CountPlan]) -> None:
        self.key = list(key)
        self.statistics = statistics
        self.by = list(dict.fromkeys((*key, *(column for s in statistics for column in s.by))))
        self.weights = list(dict.fromkeys(w for s in statistics for w in (*s.sums, *s.since)))
        self.since = list(dict.fromkeys(w for s in statistics for w in s.since))
        self.cuts = list(dict.fromkeys(s.cut for s in statistics))
        self.days = [DAY] if CUT in self.cuts else []
        self.columns = list(dict.fromkeys((TIME, IS_QUERY, *self.cuts, *self.days, *self.by, *self.weights)))
        self.carried: _CarriedCounts | None = None

    def feed(self, batch: pa.RecordBatch) -> list[pa.Array]:
        """The statistics of the batch's requests."""
        rows = join_carried(self.carried and self.carried.rows, batch, self.columns)
        requests = select_queries(batch) + (rows.num_rows - batch.num_rows)
        asked = {cut: rows[cut].take(pa.array(requests)).to_numpy() for cut in self.cuts}
        earlier = _rank(rows[TIME].to_numpy(), asked[CUT]) if CUT in asked else None
        numbers = {column: encode_keys(rows[column]) for column in self.by}
        amounts = {name: self._make_amounts(rows, name) for name in self.weights}
        last = {name: self._find_last_times(rows, amounts[name], name) for name in self.since}
        starts = find_run_starts([numbers[column] for column in self.key])
        groups: dict[tuple[str, ...], _Group] = {}
        arrays: list[pa.Array] = []
        for statistic in self.statistics:
            by = (statistic.cut, *sorted(statistic.by))
            if by not in groups:
                parts = [numbers[c] for c in by[1:] if c not in self.key]
                groups[by] = _Group(starts, parts, requests, None if statistic.cut == TIME else earlier)
            group = groups[by]
            lacks = np.any([numbers[column][requests] < 0 for column in statistic.by], axis=0)
            arrays += (pa.array(group.total(amounts[name]) / SCALE, mask=lacks) for name in statistic.sums)
            for name in statistic.since:
                newest = group.newest(last[name])
                seconds = (asked[statistic.cut] - newest) / 1e6
                arrays.append(pa.array(seconds, mask=lacks | (newest == UNTIMED)))
        self.carried = self._sum_events(rows, int(starts[-1]), amounts, last)
        return arrays

    def _make_amounts(self, rows: pa.Table, name: str) -> _WideInts:
        """Return a weight of every row, 0 for a request."""
        low = np.asarray(pc.fill_null(rows[name], 0), np.int64)
        high = None
        if self.carried is not None and (carried := self.carried.high.get(name)) is not None:
            high = np.zeros(len(low), np.int64)
            high[: len(carried)] = carried
        return _WideInts(low, high).split_for_sum()

    def _find_last_times(self, rows: pa.Table, amounts: _WideInts, name: str) -> Ints:
        """Return the time of each event with a positive weight, else UNTIMED; for carried sums, their last time."""
        times = np.where(amounts.positive(), rows[TIME].to_numpy(), UNTIMED)
        if self.carried is not None:
            carried = self.carried.last[name]
            times[: len(carried)] = carried
        return times

    def _sum_events(
        self, rows: pa.Table, start: int, amounts: dict[str, _WideInts], last: dict[str, Ints]
    ) -> _CarriedCounts | None:
        """Sum the events from row `start` on by all columns."""
        events = start + np.flatnonzero(~rows[IS_QUERY].to_numpy()[start:])
        if len(events) == 0:
            return None
        by = [*self.by, *self.days]
        chosen = rows.select(by).take(pa.array(events))
        # Arrow derives the names of aggregates from column names: use numbers as names until then.
        aggregated: list[tuple[str, Ints, str]] = [(TIME, rows[TIME].to_numpy(), "max")]
        aggregated += ((name, last[name], "max") for name in self.since)
        aggregated += ((name, amounts[name].low, "sum") for name in self.weights)
        aggregated += ((name, part, "sum") for name in self.weights if (part := amounts[name].high) is not None)
        table = pa.table(
            [*chosen.columns, *(pa.array(values[events]) for _, values, _ in aggregated)],
            names=[str(n) for n in range(len(by) + len(aggregated))],
        )
        keys, values = table.column_names[: len(by)], table.column_names[len(by) :]
        how = [how for _, _, how in aggregated]
        summed = table.group_by(keys, use_threads=False).aggregate(list(zip(values, how, strict=True)))
        summed = summed.take(pc.sort_indices(summed[f"{values[0]}_max"]))
        found = [summed[f"{name}_{h}"].to_numpy() for name, h in zip(values, how, strict=True)]
        times, found = found[0], found[1:]
        newest = dict(zip(self.since, found, strict=False))
        sums = found[len(self.since) :]
        high_sums = iter(sums[len(self.weights) :])
        totals = {
            name: _WideInts(low, next(high_sums) if amounts[name].high is not None else None).normalize()
            for name, low in zip(self.weights, sums, strict=False)
        }
        columns = {name: summed[key] for name, key in zip(by, keys, strict=True)}
        columns |= {name: pa.array(total.low) for name, total in totals.items()}
        columns |= {TIME: pa.array(times), IS_QUERY: pa.array(np.zeros(len(times), bool))}
        highs = {name: total.high for name, total in totals.items() if total.high is not None}
        return _CarriedCounts(pa.table(columns), newest, highs)


class _CarriedCounts(NamedTuple):
    """State carried to the next batch: summed events, and for each weight the last time and the high parts."""

    rows: pa.Table
    last: dict[str, Ints]
    high: dict[str, Ints]


class _WideInts(NamedTuple):
    """Integers that may exceed 64 bits: `high` * 2^32 + `low`."""

    low: Ints
    high: Ints | None = None

    def split_for_sum(self) -> _WideInts:
        """Return the same numbers, split so that sums over all rows fit into 64 bits."""
        largest = max(-int(self.low.min()), int(self.low.max())) if len(self.low) else 0
        return self if largest * len(self.low) < _SAFE else self._split_high()

    def normalize(self) -> _WideInts:
        """Return the same numbers, without `high` if it is zero."""
        return self if self.high is None or not len(self.low) else self._split_high()

    def positive(self) -> npt.NDArray[np.bool_]:
        """Return a mask of the numbers above 0."""
        return self.low > 0 if self.high is None else self.to_float() > 0

    def _split_high(self) -> _WideInts:
        high = self.low >> _LOW_BITS
        return _WideInts(self.low & _LOW, high if self.high is None else high + self.high)

    def to_float(self) -> Floats:
        """Convert to the nearest doubles."""
        if self.high is None:
            return self.low.astype(np.float64)
        low, high = self._split_high()
        assert high is not None
        return np.asarray(high * float(1 << _LOW_BITS) + low)


class _RankedEvents(NamedTuple):
    """The times of rows and the cuts of requests by their rank among both; how many ranks there are."""

    times: Ints
    cuts: Ints
    ranks: int


def _rank(times: Ints, cuts: Ints) -> _RankedEvents:
    values, rank = np.unique(np.concatenate([times, cuts]), return_inverse=True)
    return _RankedEvents(rank[: len(times)], rank[len(times) :], len(values))


class _Group:
    """Rows in the order of one group, which parts the runs of a key by more columns; where each request's past ends.

    `starts`: where each row's run begins; `earlier`: the requests' cuts, before which an event counts; None: their own
    times.
    """

    def __init__(self, starts: Ints, columns: Seq[Ints], requests: Ints, earlier: _RankedEvents | None) -> None:
        code = starts
        for column in columns:
            # Numbered anew each time: the product of many columns' sizes would not fit.
            code = np.unique(code * (column.max() + 2) + column + 1, return_inverse=True)[1]
        self.order = np.argsort(code, kind="stable")
        self.run = find_run_starts([code[self.order]])
        place = np.empty(len(code), np.int64)
        place[self.order] = np.arange(len(code))
        self.end = place[requests]
        self.first = self.run[self.end]
        if earlier is not None:
            # Later groups lie above all of earlier ones, so that one search serves all.
            at = self.run * earlier.ranks + earlier.times[self.order]
            self.end = np.searchsorted(at, self.first * earlier.ranks + earlier.cuts)

    def total(self, amounts: _WideInts) -> Floats:
        """Sum the events that count for each request, rounded to the nearest double; requests themselves add 0."""
        high = None if amounts.high is None else self._compute_sums(amounts.high)
        return _WideInts(self._compute_sums(amounts.low), high).to_float()

    def _compute_sums(self, weights: Ints) -> Ints:
        until = np.concatenate([[0], np.cumsum(weights[self.order])])
        return np.asarray(until[self.end] - until[self.first])

    def newest(self, times: Ints) -> Ints:
        """The largest of what counts for each request, else UNTIMED; that of requests is UNTIMED."""
        values, rank = np.unique(times, return_inverse=True)
        above = self.run * len(values)
        newest = values[np.maximum.accumulate(above + rank[self.order]) - above]
        return np.where(self.end > self.first, newest[self.end - 1], UNTIMED)
