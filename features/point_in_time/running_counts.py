"""Scan kernel of running statistics: sums over all earlier events of the same group, for each query row.

A scan has one key. A statistic groups by the columns of the key, and possibly by more columns. The kernel works in two
steps:

1. Within a batch, weights are summed cumulatively in the order of the groups. A sum over the events before a query row
   is the difference of two cumulative sums.
2. Between batches, the events of the last key are summed by all group columns. Each sum is carried like an event.

Column names only select columns of a batch. Other carried state is kept in separate dictionaries: names cannot collide.
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


def name_base_low(name: str) -> str:
    """Return the name of the query-row column with the low part of the base of a sum."""
    return f"_base_low_{name}"


def name_base_high(name: str) -> str:
    """Return the name of the query-row column with the high part of the base of a sum."""
    return f"_base_high_{name}"


def name_base_last(name: str) -> str:
    """Return the name of the query-row column with the last time before the events of the scan."""
    return f"_base_last_{name}"


_LOW_BITS = 32
_LOW = (1 << _LOW_BITS) - 1
_SAFE = 1 << 62


@dataclass(frozen=True)
class CountPlan:
    """A statistic to compute.

    Attributes:
        by: The group columns.
        sums: Weight columns to sum.
        since: Weight columns for which to compute the time since the last event with a positive weight.
        names: The names of the results, first of `sums`, then of `since`. Query rows may have bases by these names
            (`name_base_low` and others), to which the events of the scan add. Empty if there are no bases.
    """

    by: tuple[str, ...]
    sums: tuple[str, ...]
    since: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


class RunningCounts:
    """Scan kernel that returns the columns of statistics: for each statistic its sums, then its seconds since.

    Sums are in units of events, not millionths. All columns of a statistic are null for a query row with a null in a
    group column. The seconds since the last event are also null if there is no earlier event with a time.

    Batches must have TIME, IS_QUERY, the columns of the key and of all groups, and the weights in millionths (null
    counts as 0).

    Args:
        key: The columns of the scan's key.
        statistics: The statistics to compute.
    """

    def __init__(self, key: Seq[str], statistics: Seq[CountPlan]) -> None:
        self.key = list(key)
        self.statistics = statistics
        self.by = list(dict.fromkeys((*key, *(column for s in statistics for column in s.by))))
        self.weights = list(dict.fromkeys(w for s in statistics for w in (*s.sums, *s.since)))
        self.since = list(dict.fromkeys(w for s in statistics for w in s.since))
        self.columns = list(dict.fromkeys((TIME, IS_QUERY, *self.by, *self.weights)))
        self.carried: _CarriedCounts | None = None

    def feed(self, batch: pa.RecordBatch) -> list[pa.Array]:
        """Return the statistics for the query rows of the next batch."""
        rows = join_carried(self.carried and self.carried.rows, batch, self.columns)
        queries = select_queries(batch) + (rows.num_rows - batch.num_rows)
        cuts = rows[TIME].take(pa.array(queries)).to_numpy()
        codes = {column: encode_keys(rows[column]) for column in self.by}
        amounts = {name: self._make_amounts(rows, name) for name in self.weights}
        last = {name: self._find_last_times(rows, amounts[name], name) for name in self.since}
        starts = find_run_starts([codes[column] for column in self.key])
        groups: dict[tuple[str, ...], _Group] = {}
        arrays: list[pa.Array] = []
        for statistic in self.statistics:
            by = tuple(sorted(statistic.by))
            if by not in groups:
                groups[by] = _Group(starts, [codes[c] for c in by if c not in self.key], queries)
            group = groups[by]
            is_null = np.any([codes[column][queries] < 0 for column in statistic.by], axis=0)
            bases: list[_Bases | None] = [_Bases(batch, name) for name in statistic.names]
            bases = bases or [None] * (len(statistic.sums) + len(statistic.since))
            for name, base in zip(statistic.sums, bases, strict=False):
                total = group.total(amounts[name])
                total = base.add_to(total) if base else total
                arrays.append(pa.array(total.to_float() / SCALE, mask=is_null))
            for name, base in zip(statistic.since, bases[len(statistic.sums) :], strict=True):
                newest = group.newest(last[name])
                newest = base.find_last(newest) if base else newest
                seconds = (cuts - newest) / 1e6
                arrays.append(pa.array(seconds, mask=is_null | (newest == UNTIMED)))
        self.carried = self._sum_events(rows, int(starts[-1]), amounts, last)
        return arrays

    def _make_amounts(self, rows: pa.Table, name: str) -> _WideInts:
        """Return a weight of every row, 0 for a query row."""
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
        """Sum the events from row `start` on, the first row of the last key, by all group columns."""
        events = start + np.flatnonzero(~rows[IS_QUERY].to_numpy()[start:])
        if len(events) == 0:
            return None
        by = self.by
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
        functions = [function for _, _, function in aggregated]
        summed = table.group_by(keys, use_threads=False).aggregate(list(zip(values, functions, strict=True)))
        summed = summed.take(pc.sort_indices(summed[f"{values[0]}_max"]))
        results = [summed[f"{name}_{function}"].to_numpy() for name, function in zip(values, functions, strict=True)]
        times, results = results[0], results[1:]
        newest = dict(zip(self.since, results, strict=False))
        sums = results[len(self.since) :]
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
    """State carried to the next batch.

    Attributes:
        rows: The summed events, one row per group, ordered by their last time. Weights are the low parts.
        last: By weight, the last time of an event with a positive weight in each of `rows`.
        high: By weight, the high part of the sum in each of `rows`; only for weights that need one.
    """

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
        """Return the same numbers, with `low` reduced to 32 bits if there are high parts."""
        return self if self.high is None or not len(self.low) else self._split_high()

    def positive(self) -> npt.NDArray[np.bool_]:
        """Return a mask of the numbers above 0."""
        return self.low > 0 if self.high is None else self.to_float() > 0

    def _split_high(self) -> _WideInts:
        """Return the same numbers, with all but the lowest 32 bits moved from `low` to `high`."""
        high = self.low >> _LOW_BITS
        return _WideInts(self.low & _LOW, high if self.high is None else high + self.high)

    def to_float(self) -> Floats:
        """Convert to the nearest doubles."""
        if self.high is None:
            return self.low.astype(np.float64)
        low, high = self._split_high()
        assert high is not None
        return np.asarray(high * float(1 << _LOW_BITS) + low)


class _Bases:
    """The bases of the query rows of a batch for one result.

    Args:
        batch: The batch.
        name: The name of the result.
    """

    def __init__(self, batch: pa.RecordBatch, name: str) -> None:
        self._rows, self._name = batch.take(pa.array(select_queries(batch))), name

    def add_to(self, total: _WideInts) -> _WideInts:
        """Return the totals plus the bases."""
        low, high = (self._read(name) for name in (name_base_low(self._name), name_base_high(self._name)))
        total = total.normalize()
        is_wide = bool(high.any()) or total.high is not None
        return _WideInts(total.low + low, high + (0 if total.high is None else total.high) if is_wide else None)

    def find_last(self, newest: Ints) -> Ints:
        """Return the newer of the given times and those of the bases."""
        return np.maximum(newest, self._read(name_base_last(self._name)))

    def _read(self, column: str) -> Ints:
        return np.asarray(pc.fill_null(self._rows[column], 0), np.int64)


class _Group:
    """Rows in the order of one set of group columns. Of query row k, the events `first[k]` to `end[k] - 1` count.

    Args:
        starts: (n,) first row number of each row's key, from `find_run_starts`.
        columns: (n,) codes of each group column that is not part of the key.
        queries: (q,) row numbers of the query rows.
    """

    def __init__(self, starts: Ints, columns: Seq[Ints], queries: Ints) -> None:
        code = starts
        for column in columns:
            # Renumber after each column: the product of the sizes of many columns would overflow.
            code = np.unique(code * (column.max() + 2) + column + 1, return_inverse=True)[1]
        self.order = np.argsort(code, kind="stable")
        self.run = find_run_starts([code[self.order]])
        position = np.empty(len(code), np.int64)
        position[self.order] = np.arange(len(code))
        self.end = position[queries]
        self.first = self.run[self.end]

    def total(self, amounts: _WideInts) -> _WideInts:
        """Return the sum of the events that count for each query row, (q,)."""
        high = None if amounts.high is None else self._compute_sums(amounts.high)
        return _WideInts(self._compute_sums(amounts.low), high)

    def _compute_sums(self, weights: Ints) -> Ints:
        """Return the sum of the weights that count for each query row; query rows in between have weight 0."""
        cumulative = np.concatenate([[0], np.cumsum(weights[self.order])])
        return np.asarray(cumulative[self.end] - cumulative[self.first])

    def newest(self, times: Ints) -> Ints:
        """Return the largest time that counts for each query row, (q,), else UNTIMED.

        Args:
            times: (n,) time of each row; UNTIMED for query rows and for events that do not count.
        """
        values, rank = np.unique(times, return_inverse=True)
        # Offset the ranks of each group above those of all earlier groups, so that one cumulative maximum serves all.
        offset = self.run * len(values)
        newest = values[np.maximum.accumulate(offset + rank[self.order]) - offset]
        return np.where(self.end > self.first, newest[self.end - 1], UNTIMED)
